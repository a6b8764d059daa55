//! Following a turn: nothing is missed and nothing comes twice, whatever happens to the connection or the gateway.

use std::time::Duration;

use anyhow::Result;
use radialog_schemas::{Ask, ChatTask};
use radialog_tests::waiting;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::fake_language_worker::{FakeLanguageWorker, answer};
use super::fixture::{GatewayFixture, RunningGateway, UNLIMITED, about_xray, problem};
use super::sse::{SseEvent, text};

fn numbers(events: &[SseEvent]) -> Vec<u64> {
    events.iter().filter_map(|event| event.id).collect()
}

#[tokio::test]
async fn a_reader_that_comes_back_at_another_gateway_misses_no_event_and_sees_none_twice()
-> Result<()> {
    let fixture = GatewayFixture::with(3, |_| {}).await?;
    let path = fixture.gateway.begin(&about_xray()).await?;
    let mut first = fixture.gateway.follow(&path, 1, None).await?;
    let mut seen = Vec::new();
    while text(&seen).split(' ').count() <= 3 {
        seen.push(first.next().await?.unwrap());
    }
    drop(first);
    fixture.language_worker.allow(UNLIMITED);
    let last = seen.iter().filter_map(|event| event.id).next_back();
    let other = RunningGateway::start(&fixture.backends, |_| {}).await?;
    seen.extend(other.follow(&path, 1, last).await?.rest().await?);
    assert_eq!(text(&seen), answer(&Ask::Report));
    let numbers = numbers(&seen);
    assert!(
        numbers.iter().copied().eq(1..=numbers.len() as u64),
        "{numbers:?}"
    );
    assert_eq!(seen.last().unwrap().name, "done");
    Ok(())
}

#[tokio::test]
async fn a_restarted_gateway_ends_its_streams_and_they_go_on_where_they_were() -> Result<()> {
    let fixture = GatewayFixture::with(2, |_| {}).await?;
    let other = RunningGateway::start(&fixture.backends, |_| {}).await?;
    let path = other
        .begin(&json!({"question": "one two three four"}))
        .await?;
    let mut reader = other.follow(&path, 1, None).await?;
    let token = reader.until("token").await?;
    other.stop().await?;
    let mut seen = vec![token.clone()];
    seen.extend(reader.rest().await?);
    assert!(seen.iter().all(|event| event.name != "done"));
    fixture.language_worker.allow(UNLIMITED);
    let last = numbers(&seen).last().copied();
    seen.extend(fixture.gateway.follow(&path, 1, last).await?.rest().await?);
    assert_eq!(text(&seen), "You asked: one two three four");
    Ok(())
}

#[tokio::test]
async fn an_answer_goes_on_when_another_worker_takes_it_and_the_reader_sees_neither_gap_nor_repeat()
-> Result<()> {
    let mut fixture = GatewayFixture::with(4, |_| {}).await?;
    let path = fixture
        .gateway
        .begin(&json!({"question": "one two three four"}))
        .await?;
    let mut reader = fixture.gateway.follow(&path, 1, None).await?;
    let mut seen = Vec::new();
    while seen
        .iter()
        .filter(|event: &&SseEvent| event.name == "token")
        .count()
        < 4
    {
        seen.push(reader.next().await?.unwrap());
    }
    // The worker with the turn is gone; its task comes again.
    fixture.language_worker = FakeLanguageWorker::start(&fixture.backends, UNLIMITED);
    let id = radialog_schemas::ConversationId::from(path.rsplit('/').next().unwrap());
    let component =
        radialog_tests::fake_stage::FakeStage::component_of(radialog_schemas::Stage::Language);
    radialog_coordinator::run::publish_turn(&fixture.backends, &ChatTask::new(&id, 1, &component))
        .await?;
    seen.extend(reader.rest().await?);
    assert_eq!(text(&seen), "You asked: one two three four");
    let numbers = numbers(&seen);
    assert!(
        numbers.iter().copied().eq(1..=numbers.len() as u64),
        "{numbers:?}"
    );
    assert_eq!(
        seen.iter().filter(|event| event.name == "started").count(),
        2
    );
    Ok(())
}

#[tokio::test]
async fn a_turn_that_is_over_is_read_whole_and_then_needs_no_stream() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let path = fixture.gateway.begin(&json!({"question": "Why?"})).await?;
    let view = fixture.gateway.view_when(&path, 1, "done").await?;
    let events = fixture.gateway.follow(&path, 1, None).await?.rest().await?;
    assert_eq!(text(&events), "You asked: Why?");
    let last = view["turns"][0]["last_event"].as_u64().unwrap();
    assert_eq!(numbers(&events).last(), Some(&last));
    let all_read = fixture
        .gateway
        .get(&format!("{path}/turns/1/events?after={last}"))
        .await?;
    assert_eq!(all_read.status(), 204);
    // As event-source-polyfill comes back.
    let again = fixture
        .gateway
        .get(&format!("{path}/turns/1/events?after=0&lastEventId={last}"))
        .await?;
    assert_eq!(again.status(), 204);
    let ahead = fixture
        .gateway
        .get(&format!("{path}/turns/1/events?after={}", last + 1))
        .await?;
    assert_eq!(ahead.status(), 204, "a final turn has nothing more to say");
    for wrong in ["abc", "-1"] {
        let response = fixture
            .gateway
            .get(&format!("{path}/turns/1/events?after={wrong}"))
            .await?;
        assert_eq!(problem(response).await?.1, "invalid_request");
    }
    Ok(())
}

#[tokio::test]
async fn the_view_of_a_running_turn_and_the_events_after_it_make_the_whole() -> Result<()> {
    let fixture = GatewayFixture::with(3, |_| {}).await?;
    let path = fixture
        .gateway
        .begin(&json!({"question": "one two three"}))
        .await?;
    let look = || async {
        let view = fixture.gateway.view_when(&path, 1, "running").await?;
        Ok((view["turns"][0]["text"] == "You asked: one ").then_some(view))
    };
    let view = waiting::found("no word is there", Duration::from_secs(20), look).await?;
    fixture.language_worker.allow(UNLIMITED);
    let after = view["turns"][0]["last_event"].as_u64();
    let events = fixture
        .gateway
        .follow(&path, 1, after)
        .await?
        .rest()
        .await?;
    assert_eq!(text(&events), "two three");
    Ok(())
}

#[tokio::test]
async fn a_queued_turn_tells_its_place_and_a_silent_stream_that_it_is_alive() -> Result<()> {
    let fixture =
        GatewayFixture::with(0, |config| config.heartbeat = Duration::from_millis(200)).await?;
    let path = fixture.gateway.begin(&json!({"question": "first"})).await?;
    fixture.gateway.view_when(&path, 1, "running").await?;
    for _ in 0..2 {
        fixture
            .gateway
            .post(&format!("{path}/turns"), &json!({"task": "summary"}))
            .await?;
    }
    let mut reader = fixture.gateway.follow(&path, 3, None).await?;
    assert_eq!(reader.next().await?.unwrap().data, json!({"position": 1}));
    assert_eq!(reader.next().await?.unwrap().name, "comment");
    assert_eq!(
        fixture.gateway.delete(&format!("{path}/turns/2")).await?,
        204
    );
    assert_eq!(reader.until("queued").await?.data, json!({"position": 0}));
    fixture.language_worker.allow(UNLIMITED);
    assert_eq!(text(&reader.rest().await?), "Task summary.");
    Ok(())
}

#[tokio::test]
async fn a_stream_whose_conversation_is_removed_says_so_and_ends() -> Result<()> {
    let fixture = GatewayFixture::with(1, |_| {}).await?;
    let path = fixture
        .gateway
        .begin(&json!({"question": "one two"}))
        .await?;
    let mut reader = fixture.gateway.follow(&path, 1, None).await?;
    reader.until("token").await?;
    assert_eq!(fixture.gateway.delete(&path).await?, 204);
    let last = reader.until("error").await?;
    assert_eq!(last.data["code"], "not_found", "{last:?}");
    assert_eq!(last.id, None);
    assert_eq!(reader.next().await?, None);
    Ok(())
}

#[tokio::test]
async fn a_turn_that_nobody_published_is_published_by_the_gateways_sweeper() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |config| {
        config.republish_after = Duration::from_millis(300)
    })
    .await?;
    let path = fixture.gateway.begin(&json!({"question": "first"})).await?;
    fixture.gateway.view_when(&path, 1, "done").await?;
    // As a gateway leaves it that is killed between the two.
    let id = radialog_schemas::ConversationId::from(path.rsplit('/').next().unwrap());
    let request = fixture
        .backends
        .conversations
        .snapshot(&id)
        .await?
        .unwrap()
        .turns[0]
        .request
        .clone();
    fixture
        .backends
        .conversations
        .add_turn(&id, &request, None, u32::MAX)
        .await?;
    let events = fixture.gateway.follow(&path, 2, None).await?.rest().await?;
    assert_eq!(text(&events), "You asked: first");
    Ok(())
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_nobody_up() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let words = "word ".repeat(3000);
    let path = fixture
        .gateway
        .begin(&json!({"question": words.trim()}))
        .await?;
    let address = fixture.gateway.url.trim_start_matches("http://").to_owned();
    let mut slow = tokio::net::TcpStream::connect(&address).await?;
    let request = format!("GET {path}/turns/1/events HTTP/1.1\r\nHost: {address}\r\n\r\n");
    slow.write_all(request.as_bytes()).await?;
    let quick = fixture.gateway.follow(&path, 1, None).await?.rest().await?;
    assert_eq!(text(&quick), format!("You asked: {}", words.trim()));
    // It gets everything all the same, once it reads.
    let mut read = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    while !String::from_utf8_lossy(&read).contains("event: done") {
        let length =
            tokio::time::timeout(Duration::from_secs(20), slow.read(&mut buffer)).await??;
        assert!(length > 0, "the stream ended early");
        read.extend_from_slice(&buffer[..length]);
    }
    assert_eq!(
        String::from_utf8_lossy(&read)
            .matches("event: token")
            .count(),
        3002
    );
    Ok(())
}

/// The name of the threads whose time is measured: other tests of this process have threads of their own.
const MEASURED: &str = "idle-readers";

#[test]
fn a_thousand_idle_readers_cost_little_and_all_hear_the_end() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name(MEASURED)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        const READERS: usize = 1000;
        let fixture = GatewayFixture::with(0, |_| {}).await?;
        let path = fixture.gateway.begin(&json!({"question": "Why?"})).await?;
        fixture.gateway.view_when(&path, 1, "running").await?;
        let mut readers = Vec::new();
        for _ in 0..READERS {
            readers.push(fixture.gateway.follow(&path, 1, None).await?);
        }
        let before = cpu_time()?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let used = cpu_time()? - before;
        // Alone it is a few hundredths of a second.
        assert!(
            used < Duration::from_millis(500),
            "1000 idle readers used {used:?} of CPU time in 5 s"
        );
        fixture.language_worker.allow(UNLIMITED);
        for reader in readers {
            assert_eq!(text(&reader.rest().await?), "You asked: Why?");
        }
        Ok(())
    })
}

/// CPU time that the measured threads have used so far.
fn cpu_time() -> Result<Duration> {
    let mut ticks = 0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        let thread = thread?.path();
        // A thread may have ended meanwhile.
        let read = |name: &str| std::fs::read_to_string(thread.join(name)).unwrap_or_default();
        let stat = read("stat");
        let fields: Vec<&str> = match stat.rsplit_once(") ") {
            Some((_, fields)) if read("comm").trim_end() == MEASURED => {
                fields.split_whitespace().collect()
            }
            _ => continue,
        };
        ticks += fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    }
    anyhow::ensure!(ticks > 0, "no thread is called {MEASURED}");
    Ok(Duration::from_millis(ticks * 10))
}
