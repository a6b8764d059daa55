//! `radialog dlq`: look at messages that could not be done, and send them again.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use radialog_runtime::backends::Backends;
use radialog_runtime::config::Config;
use radialog_runtime::queue::rabbitmq::{QueueDeletion, RabbitQueue, UsedQueue};
use radialog_runtime::queue::{Delivery, Queue};
use radialog_schemas::{ErrorCode, QueueGroup, Stage, counted, queues};

use crate::args::ServiceArgs;
use crate::exit::UsageError;
use crate::seen_groups::{SeenGroups, SeenQueue, left_of};

/// Look at messages that could not be done, and send them again
///
/// A study whose task was dead-lettered stands as failed in its run's results; after a retry, run the batch again with
/// --retry-failed to take the outcome up.
#[derive(Args)]
pub(crate) struct DlqArgs {
    #[command(subcommand)]
    command: DlqCommand,
}

#[derive(Subcommand)]
enum DlqCommand {
    /// Count what waits, what waits to be tried again, and the dead letters of every queue
    ///
    /// Of all worker groups that Redis knows, or of the one that --worker-group names. Example: radialog dlq list --amqp
    /// amqp://host --redis redis://host
    List {
        #[command(flatten)]
        services: ServiceArgs,
    },
    /// Show why messages died; they stay where they are
    ///
    /// Example: radialog dlq show language --limit 5 --amqp amqp://host
    Show {
        #[command(flatten)]
        letters: DeadLetterArgs,
        /// Print the bodies too
        #[arg(long)]
        bodies: bool,
    },
    /// Forget a worker group that was given up, with its queues
    ///
    /// Coordinators look at the queues of every group that work was given to; of one that is forgotten they tell nothing more.
    /// Delete its workers first, and take it from the gateways that serve it. Example: radialog dlq forget-group v2
    /// --delete-queues --amqp amqp://host --redis redis://host
    ForgetGroup {
        /// The group, as --worker-group names it
        group: String,
        /// Delete its queues, if all are empty and nobody takes from one; without this they must be gone
        #[arg(long)]
        delete_queues: bool,
        #[command(flatten)]
        services: ServiceArgs,
    },
    /// Send messages back to their work queue, with their attempts counted from zero
    ///
    /// Example: radialog dlq retry scoring --code object_store --amqp amqp://host
    Retry {
        #[command(flatten)]
        letters: DeadLetterArgs,
        /// Only those that died with this code, e.g. crash
        #[arg(long)]
        code: Option<String>,
    },
}

/// The dead letters that a command is about.
#[derive(Args)]
struct DeadLetterArgs {
    /// embedding, findings, language, scoring, chat or results
    queue: String,
    /// Most messages to look at
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    services: ServiceArgs,
}

impl DeadLetterArgs {
    /// The queue that the dead letters are from, of the configured group.
    fn source(&self, group: Option<&QueueGroup>) -> Result<String, UsageError> {
        let work = match (self.queue.as_str(), self.queue.parse::<Stage>()) {
            ("results", _) => return Ok(queues::RESULTS.to_owned()),
            ("chat", _) => queues::CHAT,
            (_, Ok(stage)) => queues::work(stage),
            (_, Err(reason)) => {
                return Err(UsageError(format!("{reason}, or chat or results")));
            }
        };
        Ok(queues::in_group(work, group).into_owned())
    }

    /// Takes up to `limit` dead letters; each is handed back when its delivery is dropped.
    async fn take(
        &self,
        queue: &dyn Queue,
        group: Option<&QueueGroup>,
    ) -> anyhow::Result<Vec<Delivery>> {
        let dead = queues::dead(&self.source(group)?);
        let mut deliveries = Vec::new();
        while deliveries.len() < self.limit {
            match queue.take(&dead).await? {
                Some(delivery) => deliveries.push(delivery),
                None => break,
            }
        }
        Ok(deliveries)
    }
}

fn load(services: &ServiceArgs) -> anyhow::Result<Config> {
    let config = services.load_quiet(&[])?;
    match config.amqp {
        Some(_) => Ok(config),
        None => Err(UsageError("dead letters live in RabbitMQ: give --amqp URL".into()).into()),
    }
}

/// The broker, and the configured group of queues.
async fn connect(services: &ServiceArgs) -> anyhow::Result<(Arc<dyn Queue>, Option<QueueGroup>)> {
    let config = load(services)?;
    let queue = Backends::queue(&config).await?;
    if config.worker.group.is_some() {
        let groups = SeenGroups::of(&config).await;
        groups.require_named(&*queue).await?;
    }
    Ok((queue, config.worker.group))
}

/// Forgets a group whose queues are deleted, or deletes them first.
async fn forget(services: &ServiceArgs, name: &str, delete_queues: bool) -> anyhow::Result<()> {
    let config = load(services)?;
    let group = name.parse::<QueueGroup>();
    let group = group.map_err(|reason| UsageError(reason.to_string()))?;
    if config.redis.is_none() {
        let detail = "Redis keeps which worker groups there are: give --redis URL";
        return Err(UsageError(detail.into()).into());
    }
    let left = left_of(&*Backends::queue(&config).await?, &group).await?;
    if delete_queues {
        delete(&config, &group, &left).await?;
    } else {
        ensure!(
            left.is_empty(),
            "worker group '{group}' has queues: {}. Delete its workers, and run this again with --delete-queues, which deletes \
             them where they are empty",
            left.join(", ")
        );
    }
    match Backends::state(&config).await?.forget_group(&group).await? {
        true => outln!(
            "worker group '{group}' is forgotten; whoever gives it work makes it known again"
        ),
        false => outln!("worker group '{group}' was not known"),
    }
    Ok(())
}

/// Deletes the queues of a group that nobody uses.
async fn delete(config: &Config, group: &QueueGroup, names: &[String]) -> anyhow::Result<()> {
    let amqp = config.amqp.as_ref().context("dead letters have a broker")?;
    let queue = RabbitQueue::connect(amqp, &config.worker.worker, config.start_timeout).await?;
    match queue.delete_unused(names).await? {
        QueueDeletion::Deleted(messages) => {
            outln!(
                "{} of worker group '{group}' deleted",
                counted(names.len(), "queue", "queues")
            );
            if messages > 0 {
                errln!(
                    "warning: {} came into them just then, and went with them: somebody gives the group work",
                    counted(messages, "message", "messages")
                );
            }
            Ok(())
        }
        QueueDeletion::Used(used) => {
            let used: Vec<String> = used.iter().map(describe_use).collect();
            bail!(
                "worker group '{group}' is in use, and none of its queues is deleted: {}. Delete its workers; look at dead letters with \
                 `radialog dlq show`, and empty queues whose messages nobody wants with `rabbitmqctl purge_queue NAME`",
                used.join(", ")
            )
        }
    }
}

fn describe_use(used: &UsedQueue) -> String {
    let UsedQueue {
        name,
        messages,
        consumers,
    } = used;
    match consumers {
        0 => format!("{name} has messages ({messages})"),
        _ => format!("{name} has consumers ({consumers}) and messages ({messages})"),
    }
}

pub(crate) async fn run(args: DlqArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        DlqCommand::List { services } => {
            let config = load(&services)?;
            let queue = Backends::queue(&config).await?;
            let groups = SeenGroups::of(&config).await;
            let seen = groups.queues(&*queue).await?;
            let widest = seen.iter().map(|seen| seen.name.len()).max().unwrap_or(0);
            let width = widest.max(24);
            let [waiting, retrying, dead] = ["waiting", "retrying", "dead"];
            outln!("{:<width$} {waiting:>8} {retrying:>8} {dead:>8}", "queue");
            for SeenQueue {
                name,
                waiting,
                retrying,
                dead,
            } in seen
            {
                outln!("{name:<width$} {waiting:>8} {retrying:>8} {dead:>8}");
            }
            errln!("note: the queues are {}", groups.description());
        }
        DlqCommand::ForgetGroup {
            group,
            delete_queues,
            services,
        } => forget(&services, &group, delete_queues).await?,
        DlqCommand::Show { letters, bodies } => {
            let (queue, group) = connect(&letters.services).await?;
            let deliveries = letters.take(queue.as_ref(), group.as_ref()).await?;
            for delivery in &deliveries {
                outln!("{}", describe(delivery));
                if bodies {
                    outln!("    {}", String::from_utf8_lossy(&delivery.message.body));
                }
            }
            let letters = counted(deliveries.len(), "dead letter", "dead letters");
            outln!("{letters} shown; none was removed");
            for delivery in deliveries {
                delivery.receipt.requeue().await?;
            }
        }
        DlqCommand::Retry { letters, code } => {
            let (queue, group) = connect(&letters.services).await?;
            let (mut sent, mut left) = (0, 0);
            for delivery in letters.take(queue.as_ref(), group.as_ref()).await? {
                let death = delivery.message.death.clone();
                if code.is_some() && code != death.as_ref().map(|death| death.code.clone()) {
                    delivery.receipt.requeue().await?;
                    left += 1;
                    continue;
                }
                let target = death
                    .map_or_else(|| letters.source(group.as_ref()), |death| Ok(death.source))?;
                let message = radialog_runtime::queue::Message {
                    attempt: 0,
                    passed_on: 0,
                    death: None,
                    published: None,
                    ..delivery.message
                };
                queue.publish(&target, message).await?;
                delivery.receipt.ack().await?;
                sent += 1;
            }
            outln!("{sent} sent again, {left} left");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(delivery: &Delivery) -> String {
    match &delivery.message.death {
        None => "without a reason (dead-lettered by the broker)".to_owned(),
        Some(death) => {
            let code = ErrorCode::named(&death.code);
            // What waited for another worker in vain, nobody has tried at its end.
            let last = u32::from(!code.is_some_and(ErrorCode::is_for_another_worker));
            let attempts = match delivery.message.attempt.saturating_add(last) {
                0 => "no attempt".to_owned(),
                attempts => counted(attempts, "attempt", "attempts"),
            };
            let waits = match delivery.message.passed_on {
                0 => String::new(),
                times => format!(
                    " and {} of waiting for a worker of another release or bundle",
                    counted(times, "time", "times")
                ),
            };
            format!(
                "{} after {attempts}{waits}, from {} by {}: {}",
                death.code, death.source, death.worker, death.reason
            )
        }
    }
}
