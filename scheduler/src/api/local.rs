//! A client of the API without a socket, for the parts that live in the server's own process.

use std::{convert::Infallible, sync::Arc};

use axum::body::Body;
use http::{Request, Response};
use tower::ServiceExt;

use crate::api::{Api, Identity, http::router};

/// A client that asks the API directly, under an identity.
#[must_use]
pub fn client(api: Arc<Api>, identity: Identity) -> kube::Client {
    let router = router(api);
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let (router, identity) = (router.clone(), identity.clone());
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(identity);
            Ok::<Response<Body>, Infallible>(match router.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            })
        }
    });
    kube::Client::new(service, "default")
}
