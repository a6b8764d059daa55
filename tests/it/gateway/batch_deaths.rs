//! Batches whose holders go away in the middle: one that kills them ends, one beside it does not, and no clock is trusted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use radialog_coordinator::gateway::GatewayConfig;
use radialog_schemas::{ContentHash, ObjectKey};
use radialog_tests::faults::FaultInjector;
use serde_json::{Value, json};

use super::batch_places::{alter, blocking, make_late, tell};
use super::fake_language_worker::BLOCKS;
use super::fixture::{GatewayFixture, UNLIMITED};
use super::limits::eventually;
use super::request_batches::{
    asked, begin, ended, jsonl, lines_of, open_batches, question, uploaded, when,
};

/// A holder that does nothing any more.
const DEAD: &str = "dead";
/// A second after 1970 that is not over for long.
const FAR: u64 = 1 << 40;

/// Leases of the dead are taken soon; nothing is given up for want of workers.
fn impatient(config: &mut GatewayConfig) {
    config.batch_pace.abandoned_after = Duration::from_millis(300);
    config.batch_pace.stalled_after = Duration::from_secs(600);
}

/// Waits until somebody works on a batch, and lets that holder be dead from then on.
async fn kill_holder(fixture: &GatewayFixture, path: &str) -> Result<()> {
    eventually(|| async {
        // So that gateways look at once.
        tell(&fixture.gateway, path, "resume").await?;
        let mut is_held = false;
        alter(fixture, path, |document| {
            let lease = &mut document["lease"];
            is_held = lease["holder"].as_str().is_some_and(|name| name != DEAD);
            if is_held {
                *lease = json!({"holder": DEAD, "beat": 1});
            }
        })
        .await?;
        Ok(is_held)
    })
    .await
}

#[tokio::test]
async fn a_line_that_kills_its_holders_is_refused_and_the_others_of_its_batch_are_answered()
-> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, impatient).await?;
    let gateway = &fixture.gateway;
    let lines: Vec<Value> = (0..40)
        .map(|number| match number {
            32 => question("32", &format!("This {BLOCKS}.")),
            number => question(&number.to_string(), "x"),
        })
        .collect();
    let path = begin(gateway, jsonl(&lines)).await?;
    when(gateway, &path, |view| {
        view["request_counts"]["completed"] == 32
    })
    .await?;
    for _ in 0..4 {
        kill_holder(&fixture, &path).await?;
    }
    taken_until(&fixture, &path, "completed").await?;
    let view = gateway.view(&path).await?;
    let counts = json!({"total": 40, "completed": 39, "failed": 1});
    assert_eq!(view["request_counts"], counts);
    let refused = lines_of(gateway, &view["error_file_id"]).await?;
    assert_eq!(refused[0]["custom_id"], "32");
    let error = &refused[0]["error"];
    assert_eq!(error["code"], "crash");
    let message = error["message"].to_string();
    assert!(message.contains("the 4 gateways"), "{message}");
    assert!(
        message.contains("the others of its batch go on"),
        "{message}"
    );
    let answers = lines_of(gateway, &view["output_file_id"]).await?;
    assert_eq!(answers.len(), 39);
    eventually(|| async { Ok(open_batches(&fixture).await? == 0) }).await
}

/// Lets gateways look until a batch has come to this.
async fn taken_until(fixture: &GatewayFixture, path: &str, status: &str) -> Result<()> {
    eventually(|| async {
        tell(&fixture.gateway, path, "resume").await?;
        Ok(fixture.gateway.view(path).await?["status"] == status)
    })
    .await
}

#[tokio::test]
async fn a_batch_with_many_lines_that_kill_their_holders_fails_with_what_was_answered() -> Result<()>
{
    let fixture = GatewayFixture::with(UNLIMITED, impatient).await?;
    let gateway = &fixture.gateway;
    let path = begin(gateway, blocking()).await?;
    eventually(|| async { Ok(fixture.language_worker.blocked() == 1) }).await?;
    // Three of its lines were refused already.
    alter(&fixture, &path, |document| {
        document["deadly_lines"] = json!(3)
    })
    .await?;
    for _ in 0..4 {
        kill_holder(&fixture, &path).await?;
    }
    taken_until(&fixture, &path, "failed").await?;
    let view = gateway.view(&path).await?;
    let fault = &view["errors"]["data"][0];
    assert_eq!(
        (&fault["code"], &fault["line"]),
        (&json!("crash"), &json!(1))
    );
    let message = fault["message"].to_string();
    assert!(message.contains("the 4 gateways"), "{message}");
    eventually(|| async { Ok(open_batches(&fixture).await? == 0) }).await
}

#[tokio::test]
async fn a_line_that_its_holder_has_survived_is_not_refused_whoever_vanishes_later() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |config| {
        config.batch_pace.abandoned_after = Duration::from_millis(300);
        config.batch_pace.stalled_after = Duration::from_millis(300);
    })
    .await?;
    let (gateway, worker) = (&fixture.gateway, &fixture.language_worker);
    let path = begin(gateway, blocking()).await?;
    eventually(|| async { Ok(worker.blocked() == 1) }).await?;
    // As often as a deadly one needs, and from half of them on it is worked on alone.
    for _ in 0..2 {
        for _ in 0..2 {
            kill_holder(&fixture, &path).await?;
        }
        // Nobody answers it, and nobody waits for its place.
        eventually(|| async {
            tell(gateway, &path, "resume").await?;
            let mut is_survived = false;
            alter(&fixture, &path, |document| {
                let holder = document["lease"]["holder"].as_str();
                let is_held = holder.is_some_and(|name| name != DEAD);
                is_survived = is_held && document["vanished"] == 0;
            })
            .await?;
            Ok(is_survived)
        })
        .await?;
    }
    worker.unblock();
    let view = ended(gateway, &path, "completed").await?;
    let counts = json!({"total": 1, "completed": 1, "failed": 0});
    assert_eq!(view["request_counts"], counts);
    Ok(())
}

#[tokio::test]
async fn a_batch_of_a_line_that_kills_its_holders_ends_where_its_file_is_gone() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, impatient).await?;
    let gateway = &fixture.gateway;
    let path = begin(gateway, blocking()).await?;
    eventually(|| async { Ok(fixture.language_worker.blocked() == 1) }).await?;
    let objects = &fixture.backends.objects;
    let parts = objects.list("request-files/parts/", None, 9).await?;
    for part in parts.entries {
        objects.delete(&part.key).await?;
    }
    alter(&fixture, &path, |document| document["vanished"] = json!(3)).await?;
    kill_holder(&fixture, &path).await?;
    taken_until(&fixture, &path, "failed").await?;
    let view = gateway.view(&path).await?;
    assert_eq!(view["errors"]["data"][0]["code"], "not_found", "{view}");
    Ok(())
}

#[tokio::test]
async fn what_may_have_killed_its_holders_is_worked_on_alone_and_may_be_innocent() -> Result<()> {
    let faults = Arc::new(FaultInjector::default());
    let fixture = GatewayFixture::faulty(&faults, impatient).await?;
    let (gateway, worker) = (&fixture.gateway, &fixture.language_worker);
    // Who was held when, in the order of the writes.
    let held: Arc<Mutex<Vec<(String, bool)>>> = Arc::default();
    let seen = held.clone();
    faults.amend_writes(move |key, content| {
        if let Ok(document) = serde_json::from_slice::<Value>(&content)
            && document["counts"].is_object()
        {
            let is_held = !document["lease"].is_null();
            seen.lock()
                .unwrap()
                .push((key.as_str().to_owned(), is_held));
        }
        content
    });
    let suspected = begin(gateway, blocking()).await?;
    eventually(|| async { Ok(worker.blocked() == 1) }).await?;
    for _ in 0..2 {
        kill_holder(&fixture, &suspected).await?;
    }
    eventually(|| async {
        let mut is_taken = false;
        tell(gateway, &suspected, "resume").await?;
        alter(&fixture, &suspected, |document| {
            is_taken = document["vanished"] == 2;
        })
        .await?;
        Ok(is_taken)
    })
    .await?;
    let other = begin(gateway, blocking()).await?;
    // What is ended was looked for after the other one had come: it had its chance to be taken.
    let cancelled = begin(gateway, blocking()).await?;
    tell(gateway, &cancelled, "cancel").await?;
    ended(gateway, &cancelled, "cancelled").await?;
    worker.unblock();
    ended(gateway, &suspected, "completed").await?;
    ended(gateway, &other, "completed").await?;
    let held = held.lock().unwrap();
    let of = |path: &str| {
        let name = path.rsplit('_').next().unwrap().to_owned();
        move |(key, is_held): &(String, bool)| *is_held && key.contains(&name)
    };
    let last = held.iter().rposition(of(&suspected));
    let first = held.iter().position(of(&other));
    assert!(last.is_some() && last < first, "{held:?}");
    Ok(())
}

#[tokio::test]
async fn a_suspected_batch_whose_day_is_over_has_all_places_only_until_it_is_cleared() -> Result<()>
{
    let fixture = GatewayFixture::with(UNLIMITED, impatient).await?;
    let gateway = &fixture.gateway;
    let others = (1..200).map(|number| question(&number.to_string(), "x"));
    let lines: Vec<Value> = std::iter::once(question("0", &format!("This {BLOCKS}.")))
        .chain(others)
        .collect();
    let path = begin(gateway, jsonl(&lines)).await?;
    eventually(|| async { Ok(fixture.language_worker.blocked() == 1) }).await?;
    for _ in 0..2 {
        kill_holder(&fixture, &path).await?;
    }
    eventually(|| async {
        let mut is_taken = false;
        tell(gateway, &path, "resume").await?;
        alter(&fixture, &path, |document| {
            is_taken = document["vanished"] == 2;
        })
        .await?;
        Ok(is_taken)
    })
    .await?;
    make_late(&fixture, &path).await?;
    let view = ended(gateway, &path, "expired").await?;
    assert_eq!(view["request_counts"]["total"], 200, "{view}");
    // Alone, each line is a piece; as soon as it is cleared, many are.
    let parts = fixture
        .backends
        .objects
        .list(ObjectKey::REQUEST_FILE_PARTS, None, 1000)
        .await?;
    assert!(parts.entries.len() < 100, "{}", parts.entries.len());
    Ok(())
}

#[tokio::test]
async fn a_batch_is_given_back_where_a_clock_that_went_on_goes_back() -> Result<()> {
    let faults = Arc::new(FaultInjector::default());
    let fixture = GatewayFixture::faulty(&faults, |config| {
        config.batch_pace.stalled_after = Duration::from_secs(600)
    })
    .await?;
    let given_back = Arc::new(AtomicBool::new(false));
    let seen = given_back.clone();
    // Who renews the lease of what is late finds it late, and nobody does so afterwards.
    faults.amend_writes(move |_, content| {
        let Ok(mut document) = serde_json::from_slice::<Value>(&content) else {
            return content;
        };
        if document["status"] == "in_progress" && document["lease"].is_null() {
            seen.store(true, Ordering::SeqCst);
        }
        if document["times"]["expires"] != 1 || !document["moved"].is_null() {
            return content;
        }
        document["times"]["expires"] = json!(FAR);
        document.to_string().into()
    });
    let gateway = &fixture.gateway;
    let path = begin(gateway, blocking()).await?;
    eventually(|| async { Ok(fixture.language_worker.blocked() == 1) }).await?;
    alter(&fixture, &path, |document| {
        document["times"]["expires"] = json!(1);
        // What only this writes.
        document["moved"] = json!(true);
    })
    .await?;
    eventually(|| async { Ok(given_back.load(Ordering::SeqCst)) }).await?;
    fixture.language_worker.unblock();
    let view = ended(gateway, &path, "completed").await?;
    assert_eq!(view["request_counts"]["completed"], 1);
    Ok(())
}

#[tokio::test]
async fn a_key_has_so_many_open_batches_and_a_cancelled_one_ends_whatever_became_of_its_input()
-> Result<()> {
    // Nothing is answered until words are allowed.
    let fixture = GatewayFixture::with(0, |_| {}).await?;
    let gateway = &fixture.gateway;
    let lines: Vec<Value> = (0..40)
        .map(|number| question(&number.to_string(), "x"))
        .collect();
    let path = begin(gateway, jsonl(&lines)).await?;
    when(gateway, &path, |view| view["status"] == "in_progress").await?;
    tell(gateway, &path, "pause").await?;
    fixture.language_worker.allow(UNLIMITED);
    let view = when(gateway, &path, |view| {
        view["request_counts"]["completed"] == 32
    })
    .await?;
    let input = view["input_file_id"].as_str().context("an input")?;
    assert_eq!(gateway.delete(&format!("/v1/files/{input}")).await?, 200);
    tell(gateway, &path, "cancel").await?;
    ended(gateway, &path, "cancelled").await?;

    let file = uploaded(gateway, jsonl(&lines)).await?;
    let owner = ContentHash::of(b"local");
    let signs = fixture.objects().join("request-batches/open");
    std::fs::create_dir_all(&signs)?;
    for number in 0..500 {
        std::fs::write(signs.join(format!("{owner}.{number:032x}")), "open")?;
    }
    let refused = gateway.post("/v1/batches", &asked(&file)).await?;
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    for number in 0..500 {
        std::fs::remove_file(signs.join(format!("{owner}.{number:032x}")))?;
    }
    let taken = gateway.post("/v1/batches", &asked(&file)).await?;
    assert_eq!(taken.status(), 200);
    Ok(())
}

#[tokio::test]
async fn no_batch_ends_by_the_clock_of_a_gateway_that_is_ahead_of_the_stores() -> Result<()> {
    let faults = Arc::new(FaultInjector::default());
    let fixture = GatewayFixture::faulty(&faults, |config| {
        config.batch_pace.stalled_after = Duration::from_secs(600)
    })
    .await?;
    let given_back = Arc::new(AtomicBool::new(false));
    let seen = given_back.clone();
    faults.amend_writes(move |_, content| {
        if let Ok(document) = serde_json::from_slice::<Value>(&content)
            && document["status"] == "in_progress"
            && document["lease"].is_null()
        {
            seen.store(true, Ordering::SeqCst);
        }
        content
    });
    let gateway = &fixture.gateway;
    let path = begin(gateway, blocking()).await?;
    eventually(|| async { Ok(fixture.language_worker.blocked() == 1) }).await?;
    faults.set_store_behind(Duration::from_secs(2 * 24 * 3600));
    let created = gateway.view(&path).await?["created_at"].as_u64();
    let created = created.context("a time")?;
    alter(&fixture, &path, |document| {
        document["times"]["expires"] = json!(created)
    })
    .await?;
    eventually(|| async { Ok(given_back.load(Ordering::SeqCst)) }).await?;
    assert_eq!(gateway.view(&path).await?["status"], "in_progress");
    faults.set_store_behind(Duration::ZERO);
    let view = ended(gateway, &path, "expired").await?;
    assert_eq!(view["request_counts"]["failed"], 1, "{view}");
    Ok(())
}
