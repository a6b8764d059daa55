//! Programs that others wrote, against a running gateway: OpenAI's Python client, LangChain's and LiteLLM's, what Open WebUI sends,
//! and schemathesis, which makes requests from the OpenAPI document. They come from PyPI into a folder beside the build.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use radialog_coordinator::gateway::GatewayConfig;
use radialog_tests::install;
use radialog_tests::patience::InTime;

use super::fixture::{GatewayFixture, RunningGateway, UNLIMITED, key, xray_path};

/// What is installed. Bounded, so that a new version does not change the tests by itself: what LangChain and LiteLLM send by
/// default changes with each.
const PACKAGES: [&str; 4] = [
    "openai>=2,<3",
    "schemathesis>=4,<5",
    "langchain-openai==1.7.4",
    "litellm==1.110.2",
];

const OPENAI: &str = include_str!("openai_client.py");
const BATCHES: &str = include_str!("openai_batches_client.py");
const RESPONSES: &str = include_str!("responses_client.py");
const LANGCHAIN: &str = include_str!("langchain_client.py");
const LITELLM: &str = include_str!("litellm_client.py");
const OPEN_WEBUI: &str = include_str!("open_webui_client.py");

/// The pause between two words of an answer that is long enough to be left or cancelled.
const WORD_PAUSE: Duration = Duration::from_millis(10);

/// The programs of the packages, in a folder beside the build; the first caller makes it.
fn python() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let target = test
        .ancestors()
        .nth(3)
        .context("a test lies in target/PROFILE/deps")?;
    let folder = target.join("python-clients");
    install::python(
        &folder,
        &PACKAGES,
        "tests of the gateway with other people's clients",
    )
}

fn text(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// Runs a program beside the gateway, which needs this thread.
async fn beside(mut command: Command) -> Result<std::process::Output> {
    let running =
        tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output_in_time());
    Ok(running.await??)
}

async fn installed() -> Result<PathBuf> {
    tokio::task::spawn_blocking(python).await?
}

/// Runs a program that gets a gateway's address and an image's path; it must not fail, and must print each of these lines.
async fn says(program: &str, lines: &[&str]) -> Result<()> {
    let bin = installed().await?;
    let fixture = GatewayFixture::start().await?;
    let mut command = Command::new(bin.join("python"));
    command
        .args(["-c", program, &fixture.gateway.url])
        .arg(xray_path());
    for variable in [
        "OPENAI_BASE_URL",
        "OPENAI_API_BASE",
        "LANGSMITH_TRACING",
        "LANGCHAIN_TRACING_V2",
    ] {
        command.env_remove(variable);
    }
    let output = beside(command).await?;
    let text = text(&output);
    ensure!(output.status.success(), "{text}");
    for line in lines {
        ensure!(text.contains(line), "no '{line}' in: {text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn langchain_invokes_streams_and_batches_and_is_refused_by_the_fields_name() -> Result<()> {
    let lines = [
        "report: The lungs are clear. No pleural effusion.",
        "answer: You asked: Is there edema?",
        "own form: You asked: Is there edema?",
        "streamed: The lungs are clear. No pleural effusion.",
        "batch: ['You asked: Is there edema?', 'You asked: Is the heart large?']",
        "asynchronous: You asked: Is there edema?",
        "set by hand: You asked: Is there edema?",
        "agent: You asked: Is there edema?",
        "tools: You asked: Is there edema?",
        "response: The lungs are clear. No pleural effusion.",
        "refused: json_schema",
        "refused: json_mode",
        "refused: function_calling",
        "refused: forced",
        "refused: penalty",
    ];
    says(LANGCHAIN, &lines).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn litellm_completes_and_streams_by_both_of_its_providers() -> Result<()> {
    let lines = [
        "openai report: The lungs are clear. No pleural effusion.",
        "openai answer: You asked: Is there edema?",
        "openai: refused",
        "custom_openai report: The lungs are clear. No pleural effusion.",
        "custom_openai answer: You asked: Is there edema?",
        "custom_openai: refused",
    ];
    says(LITELLM, &lines).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_open_webui_sends_is_answered_with_its_tools_beside_it() -> Result<()> {
    let lines = [
        "report: The lungs are clear. No pleural effusion.",
        "answer: You asked: Is there edema?",
        "together: You asked: Is there edema?",
        "temporary: The lungs are clear. No pleural effusion.",
        "continued: messages[3]",
        "second image: messages[2].content[2]",
        "tasks: done",
        "responses report: The lungs are clear. No pleural effusion.",
        "responses answer: You asked: Is there edema?",
        "responses together: You asked: Is there edema?",
        "responses tasks: done",
    ];
    says(OPEN_WEBUI, &lines).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_openai_client_streams_a_report_and_gets_a_follow_up() -> Result<()> {
    let lines = [
        "report: The lungs are clear. No pleural effusion.",
        "answer: You asked: Is there edema? | ",
        "refused: model_not_found",
    ];
    says(OPENAI, &lines).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_openai_client_keeps_resumes_and_cancels_responses_at_two_gateways()
-> Result<()> {
    let bin = installed().await?;
    let fixture = GatewayFixture::with(0, |_| {}).await?;
    let other = RunningGateway::start(&fixture.backends, |_| {}).await?;
    let mut command = Command::new(bin.join("python"));
    command
        .args(["-c", RESPONSES, &fixture.gateway.url, &other.url])
        .arg(xray_path())
        .env_remove("OPENAI_BASE_URL");
    let words = async {
        loop {
            tokio::time::sleep(WORD_PAUSE).await;
            fixture.language_worker.allow(1);
        }
    };
    let output = tokio::select! {
        output = beside(command) => output?,
        () = words => bail!("words have no end"),
    };
    ensure!(output.status.success(), "{}", text(&output));
    let text = text(&output);
    for line in [
        "report: The lungs are clear. No pleural effusion.",
        "answer: You asked: Is there edema?",
        "resumed: ",
        "cancelled",
        "refused",
        "deleted: not_found",
    ] {
        assert!(text.contains(line), "{text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_openai_client_uploads_a_batch_and_downloads_its_answers() -> Result<()> {
    let lines = [
        "counts: 2 1 1",
        "answer: one You asked: Is there edema?",
        "fault: two presence_penalty",
    ];
    says(BATCHES, &lines).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_made_from_the_document_are_answered_as_it_says() -> Result<()> {
    let bin = installed().await?;
    // With a key, so that it is tried without one, too.
    let unlimited = |config: &mut GatewayConfig| {
        config.keys = vec![key("schemathesis", "rd-schemathesis")];
        (config.rate, config.concurrent) = (1_000_000, 64);
    };
    let fixture = GatewayFixture::with(UNLIMITED, unlimited).await?;
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(bin.join("schemathesis"));
    command.current_dir(folder.path());
    command
        .arg("run")
        .arg(format!("{}/openapi.json", fixture.gateway.url));
    command.args(["--header", "Authorization: Bearer rd-schemathesis"]);
    // One worker: two threads that parse Python at a time break CPython 3.11's parser now and then (python/cpython#106905).
    command.args([
        "--max-examples",
        "40",
        "--seed",
        "7",
        "--workers",
        "1",
        "--request-timeout",
        "20",
        "--no-color",
    ]);
    // Not what a schema can say: that an image is one, that a correction changes something, and that a conversation that began
    // without an image has none. And what is deleted by cancelling a turn is its work; the turn itself stays to be looked at.
    command.args([
        "--exclude-checks",
        "positive_data_acceptance,use_after_free,ensure_resource_availability",
    ]);
    let output = beside(command).await?;
    if !output.status.success() {
        bail!("{}", last_lines(&text(&output), 400));
    }
    Ok(())
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
