//! What conversations leave in the object store: nothing that outlives them.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use radialog_coordinator::RunOptions;
use radialog_coordinator::archive::{self, ArchiveLocation};
use radialog_coordinator::conversation::preparation_run;
use radialog_coordinator::conversation::retention::{self, Unowned};
use radialog_runtime::backends::Backends;
use radialog_runtime::config::RetentionConfig;
use radialog_runtime::conversations::memory::MemoryConversations;
use radialog_runtime::queue::Message;
use radialog_schemas::{
    ChatImage, ContentHash, ConversationId, ErrorCode, Failure, ObjectKey, Outcome, RunId,
    SCHEMA_VERSION, Stage, StageResult, StageSet, StageTimings, StudyId, queues,
};
use radialog_tests::embedded::{self, batch_options, run_batch, start_workers};
use radialog_tests::fake_stage::FakeStage;
use radialog_tests::faults::FaultInjector;
use radialog_tests::stepping::Stepped;
use radialog_tests::waiting;
use reqwest::Method;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::fixture::{GatewayFixture, about_xray, data_uri, problem, xray};
use super::request_batches::{begin, ended, jsonl, question};

const PATIENCE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// What a conversation has in the store.
const KINDS: [&str; 3] = ["images", "embedding", "findings"];

/// Waits for a state.
async fn until<F: Future<Output = Result<bool>>>(what: &str, is_so: impl Fn() -> F) -> Result<()> {
    waiting::until(what, PATIENCE, is_so).await
}

fn id_of(path: &str) -> ConversationId {
    ConversationId::from(path.rsplit('/').next().unwrap())
}

/// Makes all files below a folder two hours old.
fn make_old(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            make_old(&path);
        } else {
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - 2 * HOUR).unwrap();
        }
    }
}

#[tokio::test]
async fn a_removed_conversation_takes_all_that_is_its_own_and_nothing_else() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    // The same image was scored before, and is talked about twice.
    let scored = ObjectKey::image(&ContentHash::of(&xray()));
    fixture.backends.objects.put(&scored, xray().into()).await?;
    let first = fixture.gateway.begin(&about_xray()).await?;
    let second = fixture.gateway.begin(&about_xray()).await?;
    for path in [&first, &second] {
        fixture.gateway.view_when(path, 1, "done").await?;
    }
    assert_eq!(KINDS.map(|kind| fixture.stored(kind).len()), [3, 2, 2]);
    assert_eq!(fixture.gateway.delete(&first).await?, 204);
    assert_eq!(
        problem(fixture.gateway.get(&first).await?).await?.1,
        "not_found"
    );
    assert_eq!(fixture.gateway.delete(&first).await?, 404);
    assert_eq!(KINDS.map(|kind| fixture.stored(kind).len()), [2, 1, 1]);
    let image = fixture.gateway.get(&format!("{second}/image")).await?;
    assert_eq!(image.status(), 200);
    assert_eq!(fixture.gateway.delete(&second).await?, 204);
    assert_eq!(KINDS.map(|kind| fixture.stored(kind).len()), [1, 0, 0]);
    assert!(fixture.backends.objects.size(&scored).await?.is_some());
    Ok(())
}

#[tokio::test]
async fn a_conversation_that_is_deleted_at_once_leaves_nothing_behind() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let mut runs = Vec::new();
    for number in 0..20 {
        let content = [xray().as_slice(), &[0; 20][number..]].concat();
        let path = fixture
            .gateway
            .begin(&json!({"image": data_uri(&content)}))
            .await?;
        runs.push(preparation(&fixture, &path).await?.0);
        assert_eq!(fixture.gateway.delete(&path).await?, 204);
    }
    let (state, image) = (&fixture.backends.state, [StudyId::from("image")]);
    for run in &runs {
        assert_eq!(state.exist(run, &image).await?, [false]);
    }
    // What its stages were asked to do goes on, before what one asks for that comes later; what they store goes when they tell of it.
    let last = fixture.gateway.begin(&about_xray()).await?;
    fixture.gateway.view_when(&last, 1, "done").await?;
    let is_over = || async { Ok(KINDS.map(|kind| fixture.stored(kind).len()) == [1, 1, 1]) };
    until("something of them is left", is_over).await
}

#[tokio::test]
async fn what_is_known_of_a_preparation_goes_with_a_conversation_that_nobody_was_told_of()
-> Result<()> {
    let faults = Arc::<FaultInjector>::default();
    let fixture = GatewayFixture::faulty(&faults, |_| {}).await?;
    // As where the gateway was killed before it published: both tasks.
    faults.lose_messages(2);
    let path = fixture.gateway.begin(&about_xray()).await?;
    let (run, _) = preparation(&fixture, &path).await?;
    let (state, image) = (&fixture.backends.state, [StudyId::from("image")]);
    assert_eq!(state.exist(&run, &image).await?, [true]);
    assert_eq!(fixture.gateway.delete(&path).await?, 204);
    assert_eq!(state.exist(&run, &image).await?, [false]);
    assert_eq!(KINDS.map(|kind| fixture.stored(kind).len()), [0, 0, 0]);
    Ok(())
}

#[tokio::test]
async fn what_stages_store_behind_a_deletion_goes_when_they_tell_of_it_and_takes_nothing_of_others()
-> Result<()> {
    let faults = Arc::<FaultInjector>::default();
    let fixture = GatewayFixture::faulty(&faults, |_| {}).await?;
    let begin = async || {
        let request = fixture.gateway.ask(Method::POST, "/v1/conversations");
        let request = request.header("Idempotency-Key", "one name");
        let begun = request.json(&about_xray()).send().await?;
        ensure!(begun.status() == 202, "{}", begun.text().await?);
        anyhow::Ok(begun.headers()["location"].to_str()?.to_owned())
    };
    faults.lose_messages(2);
    let path = begin().await?;
    let (run, gone) = preparation(&fixture, &path).await?;
    assert_eq!(fixture.gateway.delete(&path).await?, 204);
    // Another one under its name, which is prepared: nobody knows a study of it any more.
    assert_eq!(begin().await?, path);
    fixture.gateway.view_when(&path, 1, "done").await?;
    let (own_run, own) = preparation(&fixture, &path).await?;
    assert_ne!(own.image, gone.image);
    let (state, image) = (&fixture.backends.state, [StudyId::from("image")]);
    let is_over = || async { Ok(state.exist(&own_run, &image).await? == [false]) };
    until("the preparation is not over", is_over).await?;
    // Of one that this state knows nothing of: it may live in another one, beside the same store and broker.
    let (elsewhere, others) = (RunId::from("elsewhere"), ConversationId::from("others"));
    let others = ObjectKey::conversation_image(&others, "one", &ContentHash::of(b"x"));
    let others = ObjectKey::embedding(&ContentHash::of(b"component"), &others);
    fixture.backends.objects.put(&others, "x".into()).await?;
    let failure = Failure::new(ErrorCode::ObjectStore, "the answer to a write was lost");
    let (embedding, findings) = (Stage::Embedding, Stage::Findings);
    let objects = &fixture.backends.objects;
    for (stage, output, outcome) in [
        (findings, &gone.findings, done(&gone.findings)),
        (embedding, &gone.embedding, done(&gone.embedding)),
        (embedding, &gone.embedding, Outcome::Failed(failure)),
    ] {
        objects.put(output, "late".into()).await?;
        // In front of it what is told again of the one that is there.
        tell(&fixture, &own_run, embedding, done(&own.embedding)).await?;
        tell(&fixture, &own_run, findings, done(&own.findings)).await?;
        tell(&fixture, &elsewhere, embedding, done(&others)).await?;
        tell(&fixture, &run, stage, outcome).await?;
        let is_gone = || async { Ok(objects.size(output).await?.is_none()) };
        until("what was stored late is left", is_gone).await?;
        assert_eq!(KINDS.map(|kind| fixture.stored(kind).len()), [1, 2, 1]);
    }
    Ok(())
}

/// The run that prepares the image of the conversation at this path, and the image.
async fn preparation(fixture: &GatewayFixture, path: &str) -> Result<(RunId, ChatImage)> {
    let id = id_of(path);
    let known = fixture.backends.conversations.snapshot(&id).await?;
    let image = known.and_then(|known| known.conversation.image);
    let image = image.context("no image")?;
    Ok((preparation_run(&id, &image.image), image))
}

fn done(output: &ObjectKey) -> Outcome {
    let output = output.clone();
    Outcome::Done { output }
}

/// Tells of the end of a stage, as its worker does.
async fn tell(fixture: &GatewayFixture, run: &RunId, stage: Stage, outcome: Outcome) -> Result<()> {
    let result = StageResult {
        schema_version: SCHEMA_VERSION,
        run: run.clone(),
        study: StudyId::from("image"),
        stage,
        task_output: None,
        outcome,
        timings: StageTimings::default(),
    };
    let message = Message {
        body: serde_json::to_vec(&result)?.into(),
        ..Message::default()
    };
    let queue = &fixture.backends.queue;
    Ok(queue.publish(queues::RESULTS, message).await?)
}

#[tokio::test]
async fn a_sweep_removes_what_nobody_owns_when_its_grace_is_over() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let (backends, folder) = (&fixture.backends, fixture.objects());
    let path = fixture.gateway.begin(&about_xray()).await?;
    fixture.gateway.view_when(&path, 1, "done").await?;
    let objects = &backends.objects;
    let gone = ConversationId::from("gone");
    let hash = ContentHash::of(b"x");
    let image = ObjectKey::conversation_image(&gone, "one", &hash);
    let embedding = ObjectKey::embedding(&hash, &image);
    let correction = ObjectKey::correction(&gone, 1);
    let scored = ObjectKey::image(&hash);
    for key in [&image, &embedding, &correction, &scored] {
        objects.put(key, "12345".into()).await?;
    }
    let nothing = Unowned::default();
    assert_eq!(retention::sweep(backends, HOUR, false).await?, nothing);

    make_old(folder);
    let found = Unowned {
        conversations: 1,
        objects: 2,
        bytes: 10,
        not_swept: 0,
    };
    for _ in 0..2 {
        assert_eq!(retention::sweep(backends, HOUR, true).await?, found);
    }
    assert_eq!(retention::sweep(backends, HOUR, false).await?, found);
    assert_eq!(retention::sweep(backends, HOUR, false).await?, nothing);
    for (key, stays) in [
        (&image, false),
        (&embedding, false),
        // Data that somebody means to keep.
        (&correction, true),
        (&scored, true),
    ] {
        assert_eq!(objects.size(key).await?.is_some(), stays, "{key}");
    }
    let image = fixture.gateway.get(&format!("{path}/image")).await?;
    assert_eq!(image.status(), 200, "the other conversation goes on");
    Ok(())
}

#[tokio::test]
async fn what_a_killed_deletion_has_left_goes_also_where_somebody_lives_under_the_name()
-> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let (backends, objects) = (&fixture.backends, &fixture.backends.objects);
    let in_words = fixture
        .gateway
        .begin(&json!({"question": "Is it clear?"}))
        .await?;
    let with_image = fixture.gateway.begin(&about_xray()).await?;
    fixture.gateway.view_when(&with_image, 1, "done").await?;
    let mut left = Vec::new();
    for path in [&in_words, &with_image] {
        let hash = ContentHash::of(b"of who was deleted");
        let image = ObjectKey::conversation_image(&id_of(path), "earlier", &hash);
        left.extend([ObjectKey::embedding(&hash, &image), image]);
    }
    for key in &left {
        objects.put(key, "x".into()).await?;
    }
    // It may be one that is about to begin.
    retention::sweep(backends, HOUR, false).await?;
    assert!(objects.size(&left[0]).await?.is_some());
    make_old(fixture.objects());
    let found = Unowned {
        conversations: 2,
        objects: 4,
        bytes: 4,
        not_swept: 0,
    };
    assert_eq!(retention::sweep(backends, HOUR, true).await?, found);
    assert!(objects.size(&left[0]).await?.is_some());
    assert_eq!(retention::sweep(backends, HOUR, false).await?, found);
    for key in &left {
        assert!(objects.size(key).await?.is_none(), "{key}");
    }
    assert_eq!(KINDS.map(|kind| fixture.stored(kind).len()), [1, 1, 1]);
    let image = fixture.gateway.get(&format!("{with_image}/image")).await?;
    assert_eq!(image.status(), 200);
    Ok(())
}

#[tokio::test]
async fn conversations_in_another_process_are_its_own_until_it_is_gone() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let other = Backends {
        conversations: Arc::new(MemoryConversations::default()),
        ..fixture.backends.clone()
    };
    let path = fixture.gateway.begin(&about_xray()).await?;
    fixture.gateway.view_when(&path, 1, "done").await?;
    let nothing = Unowned::default();
    for _ in 0..3 {
        make_old(fixture.objects());
        for backends in [&fixture.backends, &other] {
            assert_eq!(retention::sweep(backends, HOUR, false).await?, nothing);
        }
    }
    // It is killed, and renews nothing any more.
    make_old(fixture.objects());
    let swept = retention::sweep(&other, HOUR, false).await?;
    assert_eq!((swept.conversations, swept.objects), (1, 4));
    assert_eq!(KINDS.map(|kind| fixture.stored(kind).len()), [0, 0, 0]);
    Ok(())
}

#[tokio::test]
async fn conversations_in_memory_end_with_their_process() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let path = fixture.gateway.begin(&about_xray()).await?;
    fixture.gateway.view_when(&path, 1, "done").await?;
    let correction = ObjectKey::correction(&id_of(&path), 1);
    let objects = &fixture.backends.objects;
    objects.put(&correction, "kept for training".into()).await?;
    retention::end_all(&fixture.backends).await?;
    assert_eq!(KINDS.map(|kind| fixture.stored(kind).len()), [0, 0, 0]);
    assert!(objects.size(&correction).await?.is_some());
    Ok(())
}

#[tokio::test]
async fn a_completion_ends_by_itself_where_its_gateway_dies() -> Result<()> {
    // No word is answered, so that it is there for as long as this test.
    let fixture = GatewayFixture::with(0, |_| {}).await?;
    let body = json!({"model": "radialog", "messages": [{"role": "user", "content": "Hello?"}]});
    let asking = fixture.gateway.post("/v1/chat/completions", &body);
    let conversations = &fixture.backends.conversations;
    let looking = async {
        let begun = || async { Ok(!conversations.begun_before(u64::MAX).await?.is_empty()) };
        until("no conversation", begun).await?;
        let id = conversations.begun_before(u64::MAX).await?.remove(0);
        let snapshot = conversations.snapshot(&id).await?.context("it is there")?;
        anyhow::Ok(snapshot.conversation.lifetime_seconds)
    };
    let lifetime = tokio::select! {
        lifetime = looking => lifetime?,
        answer = asking => anyhow::bail!("it was answered: {answer:?}"),
    };
    let day = 24 * 3600;
    ensure!(
        lifetime.is_some_and(|seconds| seconds < day),
        "{lifetime:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_conversation_takes_nothing_from_a_batch_over_its_image() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let path = fixture.gateway.begin(&about_xray()).await?;
    fixture.gateway.view_when(&path, 1, "done").await?;
    let folder = tempfile::tempdir()?;
    let archive = folder.path().join("archive");
    std::fs::create_dir(&archive)?;
    std::fs::write(archive.join("study.jpg"), xray())?;
    // The same store; its workers begin when the conversation is gone.
    let backends = embedded::backends(fixture.objects())?;
    let options = RunOptions {
        stages: StageSet::closure(&[Stage::Scoring]),
        ..batch_options(
            archive::open(&ArchiveLocation::Path(archive)).await?,
            &folder.path().join("out"),
        )
    };
    let running = {
        let backends = backends.clone();
        tokio::spawn(async move { run_batch(options, &backends).await })
    };
    let scored = ObjectKey::image(&ContentHash::of(&xray()));
    let is_stored = || async { Ok(backends.objects.size(&scored).await?.is_some()) };
    until("the batch stores no image", is_stored).await?;
    assert_eq!(fixture.gateway.delete(&path).await?, 204);
    let _workers = start_workers(&backends, FakeStage::new).await?;
    let summary = running.await??;
    assert_eq!((summary.done, summary.failed), (1, 0));
    Ok(())
}

#[tokio::test]
async fn whoever_is_told_to_stop_leaves_its_sweep_wherever_it_is() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    fixture.gateway.begin(&about_xray()).await?;
    let requests = jsonl(&[question("a", "x")]);
    let path = begin(&fixture.gateway, requests).await?;
    ended(&fixture.gateway, &path, "completed").await?;
    make_old(fixture.objects());
    // Nothing is removed, so that each sweep makes the same steps.
    let config = RetentionConfig {
        grace: HOUR,
        interval: 1000 * HOUR,
        dry_run: true,
    };
    let stepped = || {
        let (faults, gate) = (Arc::new(FaultInjector::default()), Arc::default());
        faults.step(&gate);
        (faults.over(&fixture.backends), gate)
    };
    let (backends, gate) = stepped();
    let mut whole = Stepped::start(&gate, async move {
        retention::sweep(&backends, HOUR, true).await?;
        retention::sweep_requests(&*backends.objects, None, true).await?;
        anyhow::Ok(())
    });
    whole.steps(usize::MAX).await;
    let steps = whole.made();
    whole.finish().await??;
    assert!(
        steps >= 5,
        "a list each of conversations, heads, signs, parts, batches"
    );
    for step in 0..usize::try_from(steps)? {
        let (backends, gate) = stepped();
        let (config, shutdown) = (config.clone(), CancellationToken::new());
        let (stop, (end, ended)) = (shutdown.clone(), tokio::sync::oneshot::channel());
        let mut sweeping = Stepped::start(&gate, async move {
            retention::sweep_until_shutdown(&backends, &config, &shutdown).await;
            // Nobody listens where the test has failed.
            let _ = end.send(());
        });
        sweeping.steps(step).await;
        stop.cancel();
        // The store does not answer meanwhile.
        let ended = tokio::time::timeout(PATIENCE, ended).await;
        ended.with_context(|| format!("it goes on after step {step}"))??;
    }
    Ok(())
}
