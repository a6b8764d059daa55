//! Which message a confirm, or a returned message, belongs to. The client gives a returned message to the next confirm of the
//! channel, which may be another message's, and then the message's own confirm looks like that of one that was stored. So one
//! task has all publishes of a connection under way, and decides about none before it has seen every confirm that came
//! earlier.

use std::collections::HashSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use lapin::message::BasicReturnMessage;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, Error};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

/// What came of publishing a message once.
#[derive(Debug)]
pub(super) enum PublishOutcome {
    /// The broker has confirmed that the message is durable.
    Confirmed,
    /// There is no such queue.
    NoRoute,
    /// The broker does not take it, for now.
    Refused,
    /// The message may be there or not.
    Unknown,
    /// The connection broke; the message may be there or not.
    Broken(Option<Error>),
    /// There was no answer until the deadline.
    TimedOut,
}

/// A message to publish once.
pub(super) struct PublishRequest {
    pub(super) queue: ShortString,
    pub(super) body: Bytes,
    /// Its message id is like no other one of this process.
    pub(super) properties: BasicProperties,
    /// Where nobody waits any more, the confirm is still waited for: it may bring another message's return.
    pub(super) answer: oneshot::Sender<PublishOutcome>,
}

/// What the broker says of a message, and which message the client hands over with it.
struct Confirm {
    is_taken: bool,
    /// The id of a returned message, which may be another one.
    returned: Option<ShortString>,
}

type Confirming = Pin<Box<dyn Future<Output = Result<Confirm, Error>> + Send>>;

/// A message on its way.
struct Publishing {
    id: Option<ShortString>,
    confirming: Confirming,
    answer: oneshot::Sender<PublishOutcome>,
}

/// Publishes what is asked for, in that order, until nobody is left who could ask.
pub(super) async fn publish_all(channel: Channel, requests: UnboundedReceiver<PublishRequest>) {
    let mut confirms = Confirms {
        start: move |request| confirm(channel.clone(), request),
        requests,
        under_way: Vec::new(),
        returned: HashSet::new(),
    };
    poll_fn(|context| confirms.poll(context)).await;
}

/// Numbers the message and queues it for sending when it is first polled.
fn confirm(channel: Channel, request: PublishRequest) -> Publishing {
    let PublishRequest {
        queue,
        body,
        properties,
        answer,
    } = request;
    let id = properties.message_id().clone();
    let mandatory = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let confirming = Box::pin(async move {
        let exchange = ShortString::default();
        let sent = channel.basic_publish(exchange, queue, mandatory, &body, properties);
        Ok(match sent.await?.await? {
            Confirmation::Ack(returned) => Confirm::new(true, returned),
            Confirmation::Nack(returned) => Confirm::new(false, returned),
            // The channel asks for confirms; what is not taken is published again.
            Confirmation::NotRequested => Confirm::new(false, None),
        })
    });
    Publishing {
        id,
        confirming,
        answer,
    }
}

impl Confirm {
    fn new(is_taken: bool, returned: Option<BasicReturnMessage>) -> Self {
        Self {
            is_taken,
            returned: returned.and_then(|message| message.properties.message_id().clone()),
        }
    }
}

/// All publishes of a channel.
struct Confirms<S> {
    start: S,
    requests: UnboundedReceiver<PublishRequest>,
    under_way: Vec<Publishing>,
    /// Messages under way that the broker has returned with the confirm of another one.
    returned: HashSet<ShortString>,
}

impl<S: FnMut(PublishRequest) -> Publishing> Confirms<S> {
    /// Ready when nobody can ask for more.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let is_closed = loop {
            match self.requests.poll_recv(context) {
                Poll::Ready(Some(request)) => self.under_way.push((self.start)(request)),
                Poll::Ready(None) => break true,
                Poll::Pending => break false,
            }
        };
        // The client hands a return over no later than the message's own confirm. Confirms that came before one which a pass
        // has found are found by the next pass at the latest; after a pass that finds none, all of them are known.
        let mut confirmed = Vec::new();
        loop {
            let before = confirmed.len();
            self.pass(context, &mut confirmed);
            if confirmed.len() == before {
                break;
            }
        }
        let returned = confirmed
            .iter()
            .filter_map(|(_, confirm)| confirm.as_ref().ok()?.returned.clone());
        self.returned.extend(returned);
        for (publishing, confirm) in confirmed {
            let is_returned = publishing.id.is_some_and(|id| self.returned.remove(&id));
            let outcome = match (is_returned, confirm) {
                (_, Err(error)) => PublishOutcome::Broken(Some(error)),
                (true, _) => PublishOutcome::NoRoute,
                // It came with another message's return, and its own may come with the next confirm.
                (
                    false,
                    Ok(Confirm {
                        returned: Some(_), ..
                    }),
                ) => PublishOutcome::Unknown,
                (false, Ok(Confirm { is_taken: true, .. })) => PublishOutcome::Confirmed,
                (
                    false,
                    Ok(Confirm {
                        is_taken: false, ..
                    }),
                ) => PublishOutcome::Refused,
            };
            // Whoever asked may have given up.
            drop(publishing.answer.send(outcome));
        }
        if !self.returned.is_empty() {
            let under_way = self.under_way.iter().filter_map(|one| one.id.as_ref());
            let under_way: HashSet<&ShortString> = under_way.collect();
            self.returned.retain(|id| under_way.contains(id));
        }
        match is_closed {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Looks at each that is under way, and takes out those that are confirmed.
    fn pass(
        &mut self,
        context: &mut Context<'_>,
        confirmed: &mut Vec<(Publishing, Result<Confirm, Error>)>,
    ) {
        let mut waiting = Vec::with_capacity(self.under_way.len());
        for mut publishing in self.under_way.drain(..) {
            match publishing.confirming.as_mut().poll(context) {
                Poll::Ready(confirm) => confirmed.push((publishing, confirm)),
                Poll::Pending => waiting.push(publishing),
            }
        }
        self.under_way = waiting;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    use super::*;

    /// Messages `first` and `second`: the confirm of the first comes in the moment in which the second one's is looked at, and
    /// brings the return of the second.
    fn start(request: PublishRequest, first_is_confirmed: &Arc<AtomicBool>) -> Publishing {
        let id = request.properties.message_id().clone();
        let is_first = id.as_ref().is_some_and(|id| id.as_str() == "first");
        let first_is_confirmed = first_is_confirmed.clone();
        let confirming = poll_fn(move |_| {
            if !is_first {
                first_is_confirmed.store(true, Ordering::SeqCst);
            } else if !first_is_confirmed.load(Ordering::SeqCst) {
                return Poll::Pending;
            }
            Poll::Ready(Ok(Confirm {
                is_taken: true,
                returned: is_first.then(|| "second".into()),
            }))
        });
        Publishing {
            id,
            confirming: Box::pin(confirming),
            answer: request.answer,
        }
    }

    fn publish(
        requests: &UnboundedSender<PublishRequest>,
        id: &str,
    ) -> oneshot::Receiver<PublishOutcome> {
        let (answer, outcome) = oneshot::channel();
        let request = PublishRequest {
            queue: "queue".into(),
            body: Bytes::new(),
            properties: BasicProperties::default().with_message_id(id.into()),
            answer,
        };
        assert!(requests.send(request).is_ok());
        outcome
    }

    /// What becomes of both where the first is asked for and then forgotten, or waited for.
    async fn outcomes(is_forgotten: bool) -> (Option<PublishOutcome>, PublishOutcome) {
        let (requests, received) = unbounded_channel();
        let first_is_confirmed = Arc::new(AtomicBool::new(false));
        let mut confirms = Confirms {
            start: move |request| start(request, &first_is_confirmed),
            requests: received,
            under_way: Vec::new(),
            returned: HashSet::new(),
        };
        let mut first = Some(publish(&requests, "first"));
        if is_forgotten {
            first = None;
        }
        let second = publish(&requests, "second");
        drop(requests);
        poll_fn(|context| confirms.poll(context)).await;
        let first = match first {
            Some(first) => first.await.ok(),
            None => None,
        };
        (first, second.await.unwrap())
    }

    #[tokio::test]
    async fn a_message_whose_return_came_with_another_ones_confirm_counts_as_returned() {
        let (first, second) = outcomes(false).await;
        assert!(matches!(first, Some(PublishOutcome::Unknown)), "{first:?}");
        assert!(matches!(second, PublishOutcome::NoRoute), "{second:?}");
    }

    #[tokio::test]
    async fn so_it_does_where_nobody_waits_for_the_other_message_any_more() {
        let (_, second) = outcomes(true).await;
        assert!(matches!(second, PublishOutcome::NoRoute), "{second:?}");
    }
}
