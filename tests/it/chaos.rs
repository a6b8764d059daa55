//! `radialog chaos` as an operator runs it, cut short: faults in a seeded order, and the proof at the end.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use radialog_runtime::config::Config;
use radialog_runtime::state::redis::stored_keys;
use radialog_schemas::queues;
use radialog_tests::fixtures;
use radialog_tests::patience::{InTime, Watchdog};
use radialog_tests::processes::radialog;
use radialog_tests::services::{Broker, Environment, Redis};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Faults of the short run: enough for most kinds.
const FAULTS: &str = "12";

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_that_is_broken_in_a_seeded_order_loses_nothing() -> Result<()> {
    // The command starts its own, and installs nothing.
    Broker::installed()?;
    Redis::installed()?;
    let dir = tempfile::tempdir()?;
    let results = dir.path().join("chaos.json");
    let mut command = radialog(&["chaos", "--faults", FAULTS, "--seed", "4", "--studies", "4"])?;
    command
        .args([
            "--workers",
            "1",
            "--conversations",
            "1",
            "--patience",
            "4m",
            "--json",
        ])
        .arg(&results);
    let output = tokio::task::spawn_blocking(move || command.output_in_time()).await??;
    let page = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{page}{errors}");
    ensure!(page.contains("lost: nothing"), "{page}");
    let results: Value = serde_json::from_slice(&std::fs::read(results)?)?;
    let faults = results["faults"].as_object().map_or(0, |faults| {
        faults.values().filter_map(Value::as_u64).sum::<u64>()
    });
    // A fault may find nothing to break, e.g. no run between two rounds.
    ensure!((6..=12).contains(&faults), "{results}");
    for done in ["studies", "turns", "events", "objects_checked"] {
        ensure!(results[done].as_u64() > Some(0), "{done}: {results}");
    }
    Ok(())
}

/// Services that run already, and the places in them that a run is given.
struct GivenPlaces {
    _broker: Broker,
    redis: Redis,
    dir: tempfile::TempDir,
    environment: Environment,
}

impl GivenPlaces {
    async fn start() -> Result<Self> {
        let (broker, redis) = tokio::try_join!(Broker::start(1), Redis::durable())?;
        let dir = tempfile::tempdir()?;
        let state = format!("redis://{}/9", address(&redis));
        let environment = Environment::services(broker.virtual_host()?, state);
        Ok(Self {
            environment: environment.objects(&dir.path().join("objects")),
            _broker: broker,
            redis,
            dir,
        })
    }

    /// A short run over two X-rays and a text that is called an image.
    fn command(&self, faults: &str) -> Result<Command> {
        let archive = self.dir.path().join("archive");
        std::fs::create_dir_all(&archive)?;
        for name in ["00001300_000.jpg", "00001680_000.jpg"] {
            std::fs::copy(fixtures::xray(name), archive.join(name))?;
        }
        std::fs::write(archive.join("a-text.png"), "This is no image.")?;
        let temporary = self.dir.path().join("temporary");
        std::fs::create_dir_all(&temporary)?;
        let mut command = radialog(&["chaos", "--faults", faults, "--workers", "1"])?;
        command
            .args(["--conversations", "1", "--archive"])
            .arg(archive)
            .envs(self.environment.variables())
            .env("TMPDIR", temporary);
        Ok(command)
    }

    /// What lies in Redis and in the store.
    async fn left(&self) -> Result<(Vec<String>, usize)> {
        let variables = self.environment.variables();
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::load(None, variables, [])?;
        let redis = config.redis.as_ref().context("no Redis")?;
        let keys = stored_keys(redis, config.start_timeout).await?;
        let objects = radialog_runtime::backends::Backends::objects(&config).await?;
        let listed = objects.list("", None, 10).await?;
        Ok((keys, listed.entries.len()))
    }

    /// Has Redis do something in the database of the run.
    async fn tell_redis(&self, command: &str) -> Result<()> {
        let mut redis = TcpStream::connect(address(&self.redis)).await?;
        let told = format!("SELECT 9\r\n{command}\r\nQUIT\r\n");
        redis.write_all(told.as_bytes()).await?;
        let mut answers = String::new();
        redis.read_to_string(&mut answers).await?;
        ensure!(!answers.contains("-ERR"), "{answers}");
        Ok(())
    }
}

/// Host and port.
fn address(redis: &Redis) -> &str {
    let url = redis.url().trim_start_matches("redis://");
    url.split('/').next().unwrap_or(url)
}

async fn output(mut command: Command) -> Result<Output> {
    Ok(tokio::task::spawn_blocking(move || command.output_in_time()).await??)
}

fn is_empty(folder: &Path) -> Result<bool> {
    Ok(std::fs::read_dir(folder)?.next().is_none())
}

#[tokio::test(flavor = "multi_thread")]
async fn places_that_were_given_are_as_empty_after_a_run_as_they_had_to_be_before() -> Result<()> {
    let places = GivenPlaces::start().await?;
    places.tell_redis("SET somebody else").await?;
    let refused = output(places.command("2")?).await?;
    let errors = String::from_utf8_lossy(&refused.stderr);
    ensure!(refused.status.code() == Some(64), "{errors}");
    ensure!(errors.contains("1 keys in Redis"), "{errors}");
    places.tell_redis("DEL somebody").await?;
    let backends = places.environment.connect().await?;
    let worker = backends.queue.consume(queues::CHAT, 1).await?;
    let refused = output(places.command("2")?).await?;
    let errors = String::from_utf8_lossy(&refused.stderr);
    ensure!(refused.status.code() == Some(64), "{errors}");
    ensure!(errors.contains("consumers of other roles"), "{errors}");
    drop((worker, backends));

    // The text that is called an image has its line in every run, under another name each time.
    let whole = output(places.command("2")?).await?;
    let page = String::from_utf8_lossy(&whole.stdout);
    let errors = String::from_utf8_lossy(&whole.stderr);
    ensure!(whole.status.success(), "{page}{errors}");
    ensure!(
        places.left().await? == (Vec::new(), 0),
        "{:?}",
        places.left().await?
    );

    // Stopped while it works.
    let mut command = places.command("1000")?;
    let mut stopped = command
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let watchdog = Watchdog::over(&stopped);
    let said = stopped.stderr.take().context("no pipe")?;
    let id = stopped.id();
    let ended = tokio::task::spawn_blocking(move || -> Result<_> {
        let mut text = String::new();
        for line in BufReader::new(said).lines() {
            let line = line?;
            if line.ends_with("chaos: faults") {
                let mut kill = Command::new("sh");
                kill.args(["-c", &format!("kill -INT {id}")]).status()?;
            }
            text.push_str(&line);
        }
        let status = stopped.wait()?;
        watchdog.call_off(&format!("chaos, which said {text}"))?;
        Ok((status, text))
    });
    let (status, text) = ended.await??;
    ensure!(status.code() == Some(130), "{status}: {text}");
    ensure!(
        places.left().await? == (Vec::new(), 0),
        "{:?}",
        places.left().await?
    );
    ensure!(
        is_empty(&places.dir.path().join("temporary"))?,
        "a folder is left"
    );
    Ok(())
}

#[test]
fn what_cannot_be_read_or_written_is_refused_before_anything_begins() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let temporary = dir.path().join("temporary");
    std::fs::create_dir(&temporary)?;
    let (empty, missing) = (dir.path().join("empty"), dir.path().join("missing"));
    std::fs::create_dir(&empty)?;
    let places = [
        "--amqp",
        "amqp://127.0.0.1:9/chaos",
        "--redis",
        "redis://127.0.0.1:9/9",
    ];
    for (flag, value, reason) in [
        ("--archive", &empty, "no PNG or JPEG files"),
        ("--archive", &missing, "cannot read --archive"),
        ("--json", &empty, "cannot write --json"),
        ("--json", &missing.join("chaos.json"), "cannot write --json"),
    ] {
        let mut command = radialog(&["chaos", "--faults", "1"])?;
        command
            .args(places)
            .arg("--objects")
            .arg(dir.path().join("objects"));
        command.arg(flag).arg(value).env("TMPDIR", &temporary);
        let output = command.output_in_time()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(64), "{flag}: {errors}");
        ensure!(errors.contains(reason), "{flag}: {errors}");
        ensure!(is_empty(&temporary)?, "{flag} leaves a folder");
    }
    Ok(())
}
