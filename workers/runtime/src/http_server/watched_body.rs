//! The body of an answer, with which the request ends.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};

use super::connections::RequestInWork;

/// A body that ends its request when it is dropped, and says when a piece of it waits for its reader.
pub(super) struct WatchedBody {
    body: Body,
    in_work: RequestInWork,
}

impl WatchedBody {
    pub(super) fn new(body: Body, in_work: RequestInWork) -> Self {
        Self { body, in_work }
    }
}

impl hyper::body::Body for WatchedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // Another piece is asked for when there is room for it: when the reader has nearly all of the last one.
        self.in_work.piece_taken();
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(_))) = &frame {
            self.in_work.piece_given();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
