//! What is answered to those who are not let in: a `Status`, as the API's own answers are.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;

use crate::api::error::ApiError;

/// A refusal outside the API's kinds.
#[derive(Debug)]
pub struct Refused(pub ApiError);

impl Refused {
    /// 400: the request cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> Refused {
        Refused::new(400, "BadRequest", message)
    }

    /// 401: who asks is not let in, and why.
    pub fn unauthorized(message: impl Into<String>) -> Refused {
        Refused::new(401, "Unauthorized", message)
    }

    /// 409: something stands in the way.
    pub fn conflict(message: impl Into<String>) -> Refused {
        Refused::new(409, "Conflict", message)
    }

    /// 429: too often.
    pub fn too_many(message: impl Into<String>, seconds: u32) -> Refused {
        Refused(ApiError::too_many_requests(message, seconds))
    }

    /// 500: our own failure.
    pub fn internal(message: impl Into<String>) -> Refused {
        Refused::new(500, "InternalError", message)
    }

    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Refused {
        Refused(ApiError {
            code,
            reason,
            message: message.into(),
            details: None,
        })
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let code = StatusCode::from_u16(self.0.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (code, Json(self.0.to_status())).into_response()
    }
}
