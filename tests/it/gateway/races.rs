//! Requests that come at the same time and exclude each other: one is done, the others are told so and leave nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::{join_all, try_join, try_join_all};
use radialog_coordinator::gateway::GatewayConfig;
use radialog_schemas::{ContentHash, ObjectKey, Stage};
use radialog_tests::fake_stage::FakeStage;
use radialog_tests::waiting;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use super::fixture::{GatewayFixture, RunningGateway, UNLIMITED, data_uri, problem, xray};
use super::request_batches::{asked, ended, jsonl, question, uploaded};

/// Pairs of requests with one key and different contents.
const PAIRS: usize = 60;
/// Pairs that are under way at a time.
const AT_ONCE: usize = 6;

fn unlimited(config: &mut GatewayConfig) {
    config.rate = 100_000;
    config.concurrent = 1000;
    config.max_waiting = 100_000;
}

/// The shipped X-ray with a comment, which changes its hash and nothing that is seen.
fn image(comment: u32) -> Vec<u8> {
    let xray = xray();
    let comment = [b"\xff\xfe\x00\x06".as_slice(), &comment.to_be_bytes()].concat();
    [&xray[..2], &comment, &xray[2..]].concat()
}

/// What the fake classifier says about this image of the conversation at this path, which must be its own.
async fn findings_text(fixture: &GatewayFixture, path: &str, image: &[u8]) -> Result<String> {
    let id = path.rsplit('/').next().unwrap_or_default().into();
    let known = fixture.backends.conversations.snapshot(&id).await?;
    let own = known.and_then(|known| known.conversation.image);
    let own = own.context("no image")?.image;
    let content = ContentHash::of(image);
    ensure!(own.as_str().ends_with(content.as_str()), "{own}: {content}");
    let key = ObjectKey::findings(&FakeStage::component_of(Stage::Findings), &own);
    Ok(ContentHash::of(key.as_str().as_bytes()).short().to_owned())
}

async fn post(gateway: &RunningGateway, path: &str, key: &str, body: &Value) -> Result<Response> {
    let request = gateway
        .ask(Method::POST, path)
        .header("Idempotency-Key", key);
    Ok(request.json(body).send().await?)
}

/// Of two answers one accepts, and the other one says that the key belongs to another request: which one accepts.
async fn accepted(answers: (Response, Response)) -> Result<(usize, Response)> {
    let (first, second) = answers;
    let (place, yes, no) = match first.status().as_u16() {
        202 => (0, first, second),
        _ => (1, second, first),
    };
    ensure!(
        yes.status() == 202,
        "none was accepted: {}",
        yes.text().await?
    );
    let (status, code, _) = problem(no).await?;
    ensure!(
        (status, code.as_str()) == (422, "idempotency_mismatch"),
        "{status} {code}"
    );
    Ok((place, yes))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_images_with_one_key_one_is_taken_and_shown_with_its_own_findings() -> Result<()> {
    let fixture = &GatewayFixture::with(UNLIMITED, unlimited).await?;
    let gateway = &fixture.gateway;
    let race = |pair: usize| async move {
        let number = u32::try_from(pair)? * 2;
        let images = [image(number), image(number + 1)];
        let [one, two] = images
            .each_ref()
            .map(|image| json!({"image": data_uri(image)}));
        let key = format!("pair-{pair}");
        let answers = try_join(
            post(gateway, "/v1/conversations", &key, &one),
            post(gateway, "/v1/conversations", &key, &two),
        )
        .await?;
        let (place, answer) = accepted(answers).await?;
        let path = answer.headers()["location"].to_str()?.to_owned();
        let view = gateway.view_when(&path, 1, "done").await?;
        assert_eq!(
            view["findings"]["text"],
            findings_text(fixture, &path, &images[place]).await?
        );
        let shown = gateway.get(&format!("{path}/image")).await?.bytes().await?;
        assert_eq!(shown, images[place]);
        // The same request again is the same conversation, also where the other one has lost.
        let again = post(gateway, "/v1/conversations", &key, [&one, &two][place]).await?;
        assert_eq!(again.headers()["location"], path.as_str());
        anyhow::Ok(path)
    };
    let mut paths = Vec::new();
    for pairs in (0..PAIRS).collect::<Vec<_>>().chunks(AT_ONCE) {
        paths.extend(try_join_all(pairs.iter().map(|pair| race(*pair))).await?);
    }
    assert_eq!(
        fixture.stored("images").len(),
        PAIRS,
        "what was refused is not stored"
    );
    for path in paths {
        assert_eq!(gateway.delete(&path).await?, 204);
    }
    assert_eq!(fixture.stored("images"), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_conversation_takes_no_more_turns_at_once_than_one_by_one() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |config| {
        unlimited(config);
        config.max_turns = 20;
    })
    .await?;
    let gateway = &fixture.gateway;
    let path = gateway.begin(&json!({"question": "x"})).await?;
    let turns = format!("{path}/turns");
    let asked = json!({"task": "summary"});
    let answers = try_join_all((0..40).map(|_| gateway.post(&turns, &asked))).await?;
    let (added, full): (Vec<_>, Vec<_>) = answers
        .into_iter()
        .partition(|answer| answer.status() == 202);
    assert_eq!((added.len(), full.len()), (19, 21));
    for refused in join_all(full.into_iter().map(problem)).await {
        assert_eq!(refused?, (409, "conversation_full".into(), None));
    }
    let view = gateway.view_when(&path, 20, "done").await?;
    assert_eq!(view["turns"].as_array().context("no turns")?.len(), 20);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_turns_with_one_key_one_is_asked() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, unlimited).await?;
    let gateway = &fixture.gateway;
    let path = gateway.begin(&json!({"question": "x"})).await?;
    let turns = format!("{path}/turns");
    let question = |text: String| json!({"task": "question", "text": text});
    for pair in 0..20 {
        let (key, one, two) = (
            format!("pair-{pair}"),
            question(format!("one {pair}")),
            question(format!("two {pair}")),
        );
        let answers = try_join(
            post(gateway, &turns, &key, &one),
            post(gateway, &turns, &key, &two),
        )
        .await?;
        let (place, answer) = accepted(answers).await?;
        let view: Value = answer.json().await?;
        assert_eq!(view["request"]["text"], [&one, &two][place]["text"]);
    }
    let view = gateway.view_when(&path, 21, "done").await?;
    assert_eq!(view["turns"].as_array().context("no turns")?.len(), 21);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_batches_with_one_key_one_is_started_at_whichever_gateway() -> Result<()> {
    let directories = [tempfile::tempdir()?, tempfile::tempdir()?];
    let configure = |place: usize| {
        let directory = directories[place].path().to_owned();
        move |config: &mut GatewayConfig| {
            unlimited(config);
            config.archives = vec!["s3://archive/cxr".into()];
            config.directory = directory;
        }
    };
    let fixture = GatewayFixture::with(UNLIMITED, configure(0)).await?;
    let other = RunningGateway::start(&fixture.backends, configure(1)).await?;
    let gateways = [&fixture.gateway, &other];
    let archives = ["s3://archive/cxr/a", "s3://archive/cxr/b"];
    for archive in ["cxr/a/study.jpg", "cxr/b/study.jpg"] {
        let key = ObjectKey::parse(archive).context("a key")?;
        fixture.backends.objects.put(&key, xray().into()).await?;
    }
    let request = |archive: &str| json!({"archive": archive, "stages": ["findings"]});
    let mut paths = Vec::new();
    for pair in 0..10 {
        let (key, [one, two]) = (format!("pair-{pair}"), archives.map(request));
        // Both at one gateway, then each at its own.
        let second = gateways[pair % 2];
        let answers = try_join(
            post(gateways[0], "/v1/archives", &key, &one),
            post(second, "/v1/archives", &key, &two),
        )
        .await?;
        let (place, answer) = accepted(answers).await?;
        let view: Value = answer.json().await?;
        assert_eq!(view["request"]["archive"], archives[place]);
        let path = format!("/v1/archives/{}", view["id"].as_str().context("no id")?);
        paths.push((path, archives[place]));
    }
    for (path, archive) in paths {
        let look = || async {
            let view = other.view(&path).await?;
            Ok((view["status"] == "done").then_some(view))
        };
        let view = waiting::found("the run does not end", Duration::from_secs(60), look).await?;
        assert_eq!(
            (&view["request"]["archive"], &view["progress"]["done"]),
            (&json!(archive), &json!(1))
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_batches_of_requests_with_one_key_one_is_made_at_whichever_gateway() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, unlimited).await?;
    let other = RunningGateway::start(&fixture.backends, unlimited).await?;
    let gateways = [&fixture.gateway, &other];
    let file = uploaded(&other, jsonl(&[question("a", "x")])).await?;
    let mut made = BTreeSet::new();
    for pair in 0..10 {
        let key = format!("pair-{pair}");
        let [one, two] = ["one", "two"].map(|ward| {
            let mut request = asked(&file);
            request["metadata"] = json!({"ward": ward});
            request
        });
        // Both at one gateway, then each at its own.
        let (first, second) = try_join(
            post(gateways[0], "/v1/batches", &key, &one),
            post(gateways[pair % 2], "/v1/batches", &key, &two),
        )
        .await?;
        let (yes, no, request) = match first.status().as_u16() {
            200 => (first, second, one),
            _ => (second, first, two),
        };
        ensure!(
            yes.status() == 200,
            "none was accepted: {}",
            yes.text().await?
        );
        let view: Value = yes.json().await?;
        assert_eq!(view["metadata"], request["metadata"]);
        let refused: Value = no.json().await?;
        assert_eq!(
            refused["error"]["code"], "idempotency_mismatch",
            "{refused}"
        );
        made.insert(view["id"].as_str().context("no id")?.to_owned());
    }
    let list = other.view("/v1/batches").await?;
    let listed = list["data"].as_array().context("a list")?.iter();
    let listed: BTreeSet<&str> = listed.filter_map(|batch| batch["id"].as_str()).collect();
    let known: BTreeSet<&str> = made.iter().map(String::as_str).collect();
    assert_eq!(listed, known);
    for batch in &made {
        ended(&other, &format!("/v1/batches/{batch}"), "completed").await?;
    }
    Ok(())
}
