//! A form's body as it comes in, for a parser that keeps whatever it gets until it finds what it looks for: it gets no more
//! than a form may have outside of its fields' contents, and a sender neither stands still nor trickles for ever.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::multipart::MultipartError;
use futures::stream::{Stream, StreamExt};
use radialog_schemas::http::ProblemCode;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::gateway::body;
use crate::gateway::problem::{ApiError, ApiResult};

/// What the parser gets until something was read of it: more than any head of a field, and than what stands between two.
const MOST_UNREAD: usize = 64 << 10;
/// Bytes that must come in a second, in the long run.
const LEAST_RATE: u64 = 16 << 10;

/// A body that a form is read from.
#[derive(Clone)]
pub(super) struct FormBody(Arc<Mutex<Incoming>>);

struct Incoming {
    /// None once the rest is not wanted any more.
    body: Option<BodyDataStream>,
    /// What came and was not given to the parser.
    chunk: Bytes,
    received: u64,
    /// Bytes that the parser got since something was read.
    unread: usize,
    /// The parser was let look at what it has.
    is_paused: bool,
    /// The longest silence.
    timeout: Duration,
    /// How long the sender was waited for, but for now.
    waited: Duration,
    waiting: Option<Waiting>,
    refusal: Option<ApiError>,
}

struct Waiting {
    since: Instant,
    end: Pin<Box<Sleep>>,
}

impl FormBody {
    pub(super) fn new(body: Body, timeout: Duration) -> Self {
        Self(Arc::new(Mutex::new(Incoming {
            body: Some(body.into_data_stream()),
            chunk: Bytes::new(),
            received: 0,
            unread: 0,
            is_paused: false,
            timeout,
            waited: Duration::ZERO,
            waiting: None,
            refusal: None,
        })))
    }

    /// The body for the parser, up to so many bytes.
    pub(super) fn pieces(
        &self,
        limit: u64,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        let body = self.clone();
        futures::stream::poll_fn(move |context| {
            let mut incoming = body.lock();
            let piece = ready!(incoming.poll(context, limit));
            Poll::Ready(piece.transpose().map(|piece| {
                piece.map_err(|error| {
                    incoming.refusal = Some(error);
                    io::Error::other("refused")
                })
            }))
        })
    }

    /// The parser has found a field, or some of its content.
    pub(super) fn was_read(&self) {
        let mut incoming = self.lock();
        (incoming.unread, incoming.is_paused) = (0, false);
    }

    /// Says what is wrong where the parser fails.
    pub(super) fn told(&self, error: MultipartError) -> ApiError {
        let refusal = self.lock().refusal.take();
        refusal.unwrap_or_else(|| ApiError::new(ProblemCode::InvalidMultipart, error.body_text()))
    }

    /// Reads and forgets the rest, so that the sender gets to see why.
    pub(super) async fn drain(&self) {
        let rest = self.lock().body.take();
        if let Some(rest) = rest {
            body::drain(rest).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Incoming> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Incoming {
    fn poll(&mut self, context: &mut Context<'_>, limit: u64) -> Poll<ApiResult<Option<Bytes>>> {
        if self.unread >= MOST_UNREAD {
            if self.is_paused {
                let detail = format!(
                    "{MOST_UNREAD} bytes came without a field's begin or content; is the boundary that of the Content-Type?"
                );
                let error = ApiError::new(ProblemCode::InvalidMultipart, detail);
                return Poll::Ready(Err(error));
            }
            self.is_paused = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        while self.chunk.is_empty() {
            let Some(body) = &mut self.body else {
                return Poll::Ready(Ok(None));
            };
            let Poll::Ready(piece) = body.poll_next_unpin(context) else {
                ready!(self.poll_silence(context));
                let detail = "the body came too slowly, or not at all for a while; send it again";
                let error = ApiError::new(ProblemCode::SlowBody, detail).after(1);
                return Poll::Ready(Err(error));
            };
            if let Some(waiting) = self.waiting.take() {
                self.waited += waiting.since.elapsed();
            }
            match piece {
                None => return Poll::Ready(Ok(None)),
                Some(Ok(piece)) => self.chunk = piece,
                Some(Err(_)) => {
                    let detail = "the body ended before its announced end; send it again";
                    let error = ApiError::new(ProblemCode::IncompleteBody, detail);
                    return Poll::Ready(Err(error));
                }
            }
            self.received += self.chunk.len() as u64;
            if self.received > limit {
                let detail = format!("the body is over the limit of {limit} bytes; send less");
                return Poll::Ready(Err(ApiError::new(ProblemCode::BodyTooLarge, detail)));
            }
        }
        let most = self.chunk.len().min(MOST_UNREAD - self.unread);
        self.unread += most;
        Poll::Ready(Ok(Some(self.chunk.split_to(most))))
    }

    /// Ready when nothing came for too long, or too little altogether.
    fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let (timeout, received) = (self.timeout, self.received);
        let waited = self.waited;
        let waiting = self.waiting.get_or_insert_with(|| {
            let since = Instant::now();
            let whole = timeout + Duration::from_secs(received / LEAST_RATE);
            let end = since + timeout.min(whole.saturating_sub(waited));
            Waiting {
                since,
                end: Box::pin(sleep_until(end)),
            }
        });
        waiting.end.as_mut().poll(context)
    }
}
