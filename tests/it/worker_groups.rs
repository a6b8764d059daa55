//! Two bundles behind one gateway, as processes over real RabbitMQ: each model is answered by the workers of its own group, and
//! whoever looks at models, health and metrics sees which bundle a process serves.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use radialog_models::bundle::RandomBundle;
use radialog_runtime::queue::rabbitmq::{QueueDeletion, RabbitQueue};
use radialog_runtime::queue::{Message, Queue, QueueError};
use radialog_schemas::{QueueGroup, Stage, queues};
use radialog_tests::fixtures::xray;
use radialog_tests::processes::{ProcessCluster, RoleProcess};
use radialog_tests::services::{Environment, Services, free_port};
use radialog_tests::waiting::{client, until};
use reqwest::Client;
use reqwest::multipart::{Form, Part};
use serde_json::Value;

use crate::adapters::{self, config};

const TIMEOUT: Duration = Duration::from_secs(120);
/// The group of the second bundle's workers.
const GROUP: &str = "second";
/// The stages that a conversation needs.
const STAGES: [&str; 3] = ["embedding", "findings", "language"];

/// A bundle of random weights with a name of its own.
fn bundle(dir: &Path, name: &str, seed: u64) -> Result<String> {
    RandomBundle::tiny(seed).write(dir)?;
    let file = dir.join("bundle.json");
    let manifest = fs::read_to_string(&file)?.replace("\"random-tiny\"", &format!("\"{name}\""));
    fs::write(file, manifest)?;
    Ok(dir.display().to_string())
}

struct Cluster {
    processes: ProcessCluster,
    gateway: String,
    client: Client,
}

impl Cluster {
    /// The workers of a bundle, and the health address of the last one.
    fn workers(&self, bundle: &str, group: &[&str]) -> Result<(Vec<RoleProcess>, String)> {
        let health = format!("127.0.0.1:{}", free_port()?);
        let workers = STAGES.iter().map(|&stage| {
            let mut arguments = vec!["worker", stage, "--bundle", bundle];
            arguments.extend(group);
            if stage == "language" {
                arguments.extend(["--health-address", &health]);
            }
            self.processes.start(&arguments)
        });
        Ok((workers.collect::<Result<_>>()?, health))
    }

    async fn text(&self, url: &str) -> Result<String> {
        Ok(self.client.get(url).send().await?.text().await?)
    }

    /// Asks until the answer is as it should be.
    async fn until(&self, url: &str, is_so: impl Fn(&str) -> bool) -> Result<String> {
        let began = Instant::now();
        loop {
            let answer = self.text(url).await;
            self.processes.check()?;
            match &answer {
                Ok(text) if is_so(text) => return answer,
                _ if began.elapsed() < TIMEOUT => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                _ => anyhow::bail!(
                    "'{url}' answers {answer:?}; gateway and workers said:\n{}\n{}",
                    self.processes.log("gateway"),
                    self.processes.log("worker")
                ),
            }
        }
    }

    /// Begins a conversation about an image with this model; its first turn is a report.
    async fn begin(&self, model: &str) -> Result<String> {
        let image = Part::bytes(fs::read(xray("00001300_000.jpg"))?).file_name("xray");
        let form = Form::new()
            .part("image", image)
            .text("model", model.to_owned())
            .text("max_new_tokens", "16");
        let post = self
            .client
            .post(format!("{}/v1/conversations", self.gateway));
        let response = post.multipart(form).send().await?;
        ensure!(response.status() == 202, "{}", response.text().await?);
        let view: Value = response.json().await?;
        ensure!(view["model"] == model, "{view}");
        let id = view["id"].as_str().context("no id")?;
        Ok(format!("{}/v1/conversations/{id}/turns/1", self.gateway))
    }

    /// The report that a turn ends with.
    async fn report(&self, turn: &str) -> Result<String> {
        let is_final = |text: &str| {
            let view: Value = serde_json::from_str(text).unwrap_or_default();
            ["done", "failed", "cancelled"].contains(&view["status"].as_str().unwrap_or_default())
        };
        let view: Value = serde_json::from_str(&self.until(turn, is_final).await?)?;
        ensure!(view["status"] == "done", "{view}");
        Ok(view["text"].as_str().context("no text")?.to_owned())
    }

    /// Whether the process at this address says in health and metrics that it serves a bundle, for a group or none.
    async fn names(&self, health: &str, bundle: &str, group: &str) -> Result<()> {
        let ready = self
            .until(&format!("http://{health}/readyz"), |text| {
                text.starts_with("ready")
            })
            .await?;
        let begin = format!("bundle {bundle} ");
        let line = ready.lines().find(|line| line.starts_with(&begin));
        let line = line.with_context(|| format!("no '{bundle}' in {ready}"))?;
        let of_group = line.split_once(" group ").map_or("", |(_, group)| group);
        ensure!(of_group == group, "{ready}");
        let metrics = self.text(&format!("http://{health}/metrics")).await?;
        let info = format!("radialog_bundle_info{{bundle=\"{bundle}\",group=\"{group}\"");
        ensure!(metrics.contains(&info), "{metrics}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_group_without_workers_is_told_by_the_coordinator() -> Result<()> {
    let services = Services::shared().await?;
    let amqp = services.amqp()?;
    let environment = Environment::services(amqp.clone(), services.redis());
    let environment = environment.bucket(services.bucket()?);
    let dir = tempfile::tempdir()?;
    let one = bundle(&dir.path().join("one"), "one", 1)?;
    let two = bundle(&dir.path().join("two"), "two", 2)?;
    let [address, health] = [free_port()?, free_port()?].map(|port| format!("127.0.0.1:{port}"));
    let cluster = Cluster {
        processes: ProcessCluster::new(environment)?,
        gateway: format!("http://{address}"),
        client: client(),
    };
    let also = format!("{GROUP}={two}");
    let gateway = [
        "gateway", "--listen", &address, "--bundle", &one, "--also", &also,
    ];
    let _gateway = cluster.processes.start(&gateway)?;
    let models = format!("{}/v1/models", cluster.gateway);
    cluster.until(&models, |text| text.contains("two")).await?;
    // Its image waits for the two stages that read it.
    cluster.begin("two").await?;
    let coordinator = ["coordinator", "--health-address", &health];
    let _coordinator = cluster.processes.start(&coordinator)?;
    let queue = adapters::rabbitmq_at(&amqp).await;
    let again = queues::in_group(queues::work(Stage::Scoring), Some(&GROUP.parse()?)).into_owned();
    // The last step takes two minutes.
    let step = queues::RETRY_DELAYS.len() - 1;
    let waits = queues::retry(&again, step);
    let of = |metric: &str, stage: &str, group: &str, depth: u32| {
        format!("{metric}{{stage=\"{stage}\",worker_group=\"{group}\"}} {depth}\n")
    };
    let depth = |stage: &str, group: &str, depth: u32| {
        of("radialog_queue_depth_messages", stage, group, depth)
    };
    let retrying = |stage: &str, group: &str, depth: u32| {
        of("radialog_queue_retrying_messages", stage, group, depth)
    };
    let told = [
        retrying("scoring", "", 0),
        retrying("chat", GROUP, 0),
        depth("embedding", GROUP, 1),
        depth("findings", GROUP, 1),
        depth("language", GROUP, 0),
        depth("chat", GROUP, 0),
        depth("embedding", "", 0),
    ];
    let metrics = format!("http://{health}/metrics");
    let waits_again = |text: &str| {
        let none = retrying("scoring", GROUP, 0);
        let name = none.trim_end_matches("0\n");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
        lines.any(|depth| depth.parse::<u64>().is_ok_and(|depth| depth > 0))
    };
    let is_told =
        |text: &str| waits_again(text) && told.iter().all(|line| text.contains(line.as_str()));
    // However long the rest takes, one waits there.
    let publishing = async {
        while let Ok(()) = queue.publish(&waits, Message::default()).await {
            tokio::time::sleep(queues::retry_delay(step) / 4).await;
        }
    };
    let telling = cluster.until(&metrics, is_told);
    tokio::select! {
        told = telling => drop(told?),
        () = publishing => anyhow::bail!("the broker takes no message"),
    };

    // Whoever looks sees them, too, and says whose they are. The first one may have gone on.
    queue.publish(&waits, Message::default()).await?;
    let says = |arguments: &[&str]| -> Result<String> {
        let output = cluster.processes.run(arguments)?;
        ensure!(output.status.success(), "{arguments:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let list = says(&["dlq", "list"])?;
    let row = |queue: &str| -> Vec<&str> {
        let mut lines = list.lines().map(|line| line.split_whitespace().collect());
        lines
            .find(|words: &Vec<&str>| words.first() == Some(&queue))
            .unwrap_or_default()
    };
    let retrying: u32 = row(&again)[2].parse()?;
    assert!(retrying > 0, "{list}");
    let images = format!("radialog.embedding@{GROUP}");
    assert_eq!(row(&images)[1..], ["1", "0", "0"], "{list}");
    assert_eq!(row("radialog.embedding")[1..], ["0", "0", "0"], "{list}");
    assert!(!row("radialog.results").is_empty(), "{list}");
    let own = says(&["dlq", "list", "--worker-group", GROUP])?;
    assert!(
        own.contains(&images) && !own.contains("radialog.embedding "),
        "{own}"
    );
    // Who mistypes a name is told so, and makes no queues of it.
    for arguments in [&["list"][..], &["show", "language"], &["retry", "chat"]] {
        let arguments = [&["dlq"], arguments, &["--worker-group", "tpyo"]].concat();
        let output = cluster.processes.run(&arguments)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {errors}");
        assert!(
            errors.contains("'tpyo' has no queues") && errors.contains(GROUP),
            "{errors}"
        );
    }
    let mistyped = queue.depth("radialog.embedding@tpyo").await;
    assert!(
        matches!(mistyped, Err(QueueError::NoQueue(_))),
        "{mistyped:?}"
    );
    let state = adapters::redis_at(services.redis()).await;
    let gone = format!("gone-{}", std::process::id());
    state.note_group(&gone.parse()?).await?;
    let forgotten = says(&["dlq", "forget-group", &gone])?;
    assert!(forgotten.contains("is forgotten"), "{forgotten}");
    assert!(!state.groups().await?.contains(&gone.parse()?));
    let kept = cluster.processes.run(&["dlq", "forget-group", GROUP])?;
    let errors = String::from_utf8_lossy(&kept.stderr);
    assert!(
        !kept.status.success() && errors.contains(&images),
        "{errors}"
    );
    // Its queues go with it where nobody needs them, and else none.
    let amqp = config(&[("amqp.url", &amqp)]).amqp.context("a broker")?;
    let broker = RabbitQueue::connect(&amqp, "operator", TIMEOUT).await?;
    let kept_queues = async |arguments: &[&str], used: &str| -> Result<()> {
        let arguments = [&["dlq", "forget-group"], arguments, &["--delete-queues"]].concat();
        let kept = cluster.processes.run(&arguments)?;
        let errors = String::from_utf8_lossy(&kept.stderr);
        ensure!(
            !kept.status.success() && errors.contains(used),
            "{arguments:?}: {errors}"
        );
        Ok(())
    };
    kept_queues(&[GROUP], &format!("{images} has messages (1)")).await?;
    let given_up: QueueGroup = "given-up".parse()?;
    state.note_group(&given_up).await?;
    broker.declare_group(&given_up).await?;
    let turns = "radialog.chat@given-up";
    let consumer = broker.consume(turns, 1).await?;
    kept_queues(&["given-up"], &format!("{turns} has consumers (1)")).await?;
    assert!(state.groups().await?.contains(&given_up));
    drop(consumer);
    // Dead letters are told of also where the queues are gone that they are from.
    let work: Vec<String> = queues::of_group(Some(&given_up)).collect();
    until("nobody takes from them", TIMEOUT, || async {
        Ok(broker.delete_unused(&work).await? == QueueDeletion::Deleted(0))
    })
    .await?;
    let dead = queues::dead(turns);
    broker.publish(&dead, Message::default()).await?;
    until("a dead letter is there", TIMEOUT, || async {
        Ok(broker.depth(&dead).await? == 1)
    })
    .await?;
    let list = says(&["dlq", "list", "--worker-group", "given-up"])?;
    let chat = list.lines().find(|line| line.starts_with(turns));
    let chat = chat.context("no row of turns")?.split_whitespace();
    assert_eq!(chat.collect::<Vec<_>>()[1..], ["0", "0", "1"], "{list}");
    kept_queues(&["given-up"], &format!("{dead} has messages (1)")).await?;
    let letter = broker.take(&dead).await?.context("no dead letter")?;
    letter.receipt.ack().await?;
    until("no dead letter is there", TIMEOUT, || async {
        Ok(broker.depth(&dead).await? == 0)
    })
    .await?;
    let forgotten = says(&["dlq", "forget-group", "given-up", "--delete-queues"])?;
    assert!(forgotten.contains("25 queues"), "{forgotten}");
    assert!(!state.groups().await?.contains(&given_up));
    for queue in [dead, queues::retry(turns, 0)] {
        let depth = broker.depth(&queue).await;
        assert!(matches!(depth, Err(QueueError::NoQueue(_))), "{depth:?}");
    }
    let doctor = says(&["doctor", "--bundle", &one])?;
    let broker = doctor.lines().find(|line| line.contains("broker"));
    let broker = broker.context("no line of the broker")?;
    assert!(
        broker.contains("waiting to be tried again: ")
            && broker.contains("of no worker group, of ")
            && broker.contains(GROUP),
        "{broker}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_model_is_answered_by_the_workers_of_its_own_group() -> Result<()> {
    let services = Services::shared().await?;
    let environment = services.environment()?.bucket(services.bucket()?);
    let dir = tempfile::tempdir()?;
    let one = bundle(&dir.path().join("one"), "one", 1)?;
    // A comma in a path is no end of it.
    let two = bundle(&dir.path().join("two, of another seed"), "two", 2)?;
    let [address, health] = [free_port()?, free_port()?].map(|port| format!("127.0.0.1:{port}"));
    let cluster = Cluster {
        processes: ProcessCluster::new(environment)?,
        gateway: format!("http://{address}"),
        client: client(),
    };
    let _gateway = cluster.processes.start(&[
        "gateway",
        "--listen",
        &address,
        "--health-address",
        &health,
        "--bundle",
        &one,
        "--also",
        &format!("{GROUP}={two}"),
    ])?;
    cluster.names(&health, "one", "").await?;
    cluster.names(&health, "two", GROUP).await?;
    let models = cluster
        .text(&format!("{}/v1/models", cluster.gateway))
        .await?;
    let models: Value = serde_json::from_str(&models)?;
    let listed = models["data"].as_array().context("no list")?.iter();
    let listed: Vec<_> = listed
        .map(|model| [&model["id"], &model["bundle"]])
        .collect();
    ensure!(listed == [["one", "one"], ["two", "two"]], "{models}");

    // Workers of the first bundle alone: its turns are answered, and one for the second bundle, which came earlier, waits.
    let (first_workers, first_health) = cluster.workers(&one, &[])?;
    let of_two = cluster.begin("two").await?;
    let of_one = cluster.begin("one").await?;
    let by_one = cluster.report(&of_one).await?;
    let waiting: Value = serde_json::from_str(&cluster.text(&of_two).await?)?;
    ensure!(waiting["status"] == "queued", "{waiting}");
    ensure!(waiting["position"] == 0, "{waiting}");
    cluster.names(&first_health, "one", "").await?;

    let (_second_workers, second_health) = cluster.workers(&two, &["--worker-group", GROUP])?;
    let by_two = cluster.report(&of_two).await?;
    ensure!(by_one != by_two, "both models say '{by_one}'");
    cluster.names(&second_health, "two", GROUP).await?;

    // Without the first bundle's workers, the second one's go on, and say the same again.
    drop(first_workers);
    let of_one = cluster.begin("one").await?;
    let of_two = cluster.begin("two").await?;
    ensure!(cluster.report(&of_two).await? == by_two);
    let waiting: Value = serde_json::from_str(&cluster.text(&of_one).await?)?;
    ensure!(waiting["status"] == "queued", "{waiting}");
    Ok(())
}
