//! A new turn's place in the queue, taken before the turn is added: a full queue is said at once, and no crowd of requests
//! makes it longer than it may be.

use radialog_runtime::conversations::{QueueLimits, Reservation, ReserveOutcome};
use radialog_schemas::counted;
use radialog_schemas::http::ProblemCode;
use uuid::Uuid;

use super::app_state::AppState;
use super::problem::{ApiError, ApiResult};

/// When to ask again, in seconds.
const RETRY: u64 = 10;

/// Places for turns that are about to be added; they are free again when this is dropped.
pub(super) struct QueuePlaces {
    app: AppState,
    reservation: Option<Reservation>,
}

impl QueuePlaces {
    /// Takes places for so many turns of an owner.
    pub(super) async fn take(app: &AppState, owner: &str, turns: usize) -> ApiResult<Self> {
        let config = &app.config;
        let limits = QueueLimits {
            all: config.max_waiting,
            // Without keys there is nobody to be fair to.
            per_key: match config.keys.is_empty() {
                true => config.max_waiting,
                false => config.max_waiting_per_key,
            },
        };
        let reservation = Reservation {
            name: Uuid::new_v4().simple().to_string(),
            owner: owner.to_owned(),
            turns: u32::try_from(turns).unwrap_or(u32::MAX),
        };
        let conversations = &app.backends.conversations;
        let (code, detail) = match conversations.reserve(&reservation, limits).await? {
            ReserveOutcome::Reserved => {
                return Ok(Self {
                    app: app.clone(),
                    reservation: Some(reservation),
                });
            }
            ReserveOutcome::Full(waiting) => (
                ProblemCode::Busy,
                format!(
                    "{} for a worker already; ask again later",
                    counted(waiting, "turn waits", "turns wait")
                ),
            ),
            ReserveOutcome::KeyFull(waiting) => (
                ProblemCode::TooManyRequests,
                format!(
                    "{} for a worker already; ask again when there are fewer",
                    counted(waiting, "turn of this key waits", "turns of this key wait")
                ),
            ),
        };
        Err(ApiError::new(code, detail).after(RETRY))
    }

    /// Frees the places, which the turns have taken themselves now.
    pub(super) async fn free(mut self) {
        if let Some(reservation) = self.reservation.take() {
            free(&self.app, &reservation).await;
        }
    }
}

impl Drop for QueuePlaces {
    fn drop(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            let app = self.app.clone();
            tokio::spawn(async move { free(&app, &reservation).await });
        }
    }
}

async fn free(app: &AppState, reservation: &Reservation) {
    if let Err(error) = app.backends.conversations.release(reservation).await {
        tracing::warn!(%error, "places in the queue stay taken for a minute");
    }
}
