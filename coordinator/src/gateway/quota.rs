//! What one key may ask: so often, so much at a time, so many streams. A refusal says when to come back.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::config::GatewayConfig;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use radialog_schemas::http::ProblemCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::body_memory::BodyMemory;
use super::problem::{ApiError, ApiResult};

/// When to ask again where something else has to end first.
const RETRY: u64 = 1;

/// The limits of one key, and what is used of them.
pub(super) struct CallerQuota {
    rate: Option<(u32, DefaultDirectRateLimiter)>,
    concurrent: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    bodies: Arc<BodyMemory>,
}

impl CallerQuota {
    pub(super) fn of(config: &GatewayConfig) -> Self {
        let at_least_one = |value: u32| NonZeroU32::new(value).unwrap_or(NonZeroU32::MIN);
        let rate = at_least_one(config.rate);
        let quota = Quota::per_second(rate).allow_burst(rate.saturating_mul(at_least_one(2)));
        Self {
            rate: Some((rate.get(), RateLimiter::direct(quota))),
            concurrent: Arc::new(Semaphore::new(config.concurrent as usize)),
            streams: Arc::new(Semaphore::new(config.streams as usize)),
            bodies: Arc::new(BodyMemory::of(config.body_memory / 2)),
        }
    }

    /// Makes a quota without limits, for everybody on this machine, who could as well start another gateway.
    pub(super) fn none() -> Self {
        let open = || Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        Self {
            rate: None,
            concurrent: open(),
            streams: open(),
            bodies: Arc::new(BodyMemory::of(u64::MAX)),
        }
    }

    /// Counts a request, which is in work while the permit lives.
    pub(super) fn request(&self) -> ApiResult<OwnedSemaphorePermit> {
        if let Some((rate, limiter)) = &self.rate
            && let Err(early) = limiter.check()
        {
            let wait = early.wait_time_from(DefaultClock::default().now());
            let detail = format!(
                "this key may send {rate} requests a second; wait as long as Retry-After says"
            );
            return Err(ApiError::new(ProblemCode::RateLimited, detail).after(whole_seconds(wait)));
        }
        take(&self.concurrent, "requests in work")
    }

    /// The part of the memory for bodies that this key may have.
    pub(super) fn bodies(&self) -> Arc<BodyMemory> {
        self.bodies.clone()
    }

    /// Counts a stream, which is open while the permit lives.
    pub(super) fn stream(&self) -> ApiResult<OwnedSemaphorePermit> {
        take(&self.streams, "event streams open")
    }
}

fn take(permits: &Arc<Semaphore>, what: &str) -> ApiResult<OwnedSemaphorePermit> {
    permits.clone().try_acquire_owned().map_err(|_| {
        let detail = format!("this key has as many {what} as it may; wait for one to end");
        ApiError::new(ProblemCode::TooManyRequests, detail).after(RETRY)
    })
}

fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_and_what_is_over_it_is_told_when_to_come_back() {
        let quota = CallerQuota::of(&GatewayConfig {
            rate: 2,
            ..GatewayConfig::default()
        });
        for _ in 0..4 {
            drop(quota.request().unwrap());
        }
        let error = quota.request().unwrap_err();
        assert_eq!(
            (error.problem.code, error.retry_after),
            (ProblemCode::RateLimited, Some(1))
        );
    }

    #[test]
    fn a_place_is_free_again_when_its_permit_is_dropped() {
        let quota = CallerQuota::of(&GatewayConfig {
            concurrent: 1,
            streams: 1,
            ..GatewayConfig::default()
        });
        let held = quota.request().unwrap();
        assert_eq!(
            quota.request().unwrap_err().problem.code,
            ProblemCode::TooManyRequests
        );
        drop(held);
        drop(quota.request().unwrap());
        let _stream = quota.stream().unwrap();
        assert_eq!(
            quota.stream().unwrap_err().problem.code,
            ProblemCode::TooManyRequests
        );
    }
}
