//! What an operator may ask of a server that runs: `proto/admin.proto`.

use std::sync::Arc;

use tonic::{Request, Status, async_trait};

use super::runtime_calls::{Answer, answer};
use crate::admin_v1 as admin;
use crate::engine::error::Error;

/// The choice of what the log says; the program's own, for it made the log.
pub trait LogLevel: Send + Sync {
    /// The level in force.
    fn level(&self) -> String;

    /// Another one from now on; the one before.
    ///
    /// # Errors
    ///
    /// `Invalid` when the word is no level; the level stays.
    fn set_level(&self, level: &str) -> Result<String, Error>;
}

/// The service.
pub(super) struct AdminService {
    pub(super) log: Arc<dyn LogLevel>,
}

#[async_trait]
impl admin::admin_server::Admin for AdminService {
    async fn get_log_level(
        &self,
        _request: Request<admin::GetLogLevelRequest>,
    ) -> Answer<admin::GetLogLevelResponse> {
        let level = self.log.level();
        answer(Ok(admin::GetLogLevelResponse { level }))
    }

    async fn set_log_level(
        &self,
        request: Request<admin::SetLogLevelRequest>,
    ) -> Answer<admin::SetLogLevelResponse> {
        let level = request.into_inner().level;
        let outcome = self.log.set_level(&level);
        if let Ok(before) = &outcome {
            tracing::warn!(%before, %level, "the log's level was changed by hand");
        }
        let told = outcome.map(|before| admin::SetLogLevelResponse { before });
        answer(told.map_err(Status::from))
    }
}
