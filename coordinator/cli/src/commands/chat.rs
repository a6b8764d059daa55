//! `radialog chat`: a conversation about an X-ray in the terminal. It speaks to a gateway as every other client does; where
//! none is named, one runs in this process.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use radialog_files::durable::{self, Readers};
use radialog_runtime::health::Readiness;
use radialog_schemas::http::{ConversationView, TurnOptions, TurnView};
use radialog_schemas::{FindingsReport, GateVerdict, TurnStatus};
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};
use tokio_util::sync::CancellationToken;

use crate::args::{ModelArgs, ServiceArgs};
use crate::embedded_gateway::EmbeddedGateway;
use crate::exit::{UsageError, usage};
use crate::line_editor::LineEditor;
use crate::print::over_threshold;
use crate::private_folder::PrivateFolder;
use client::{GatewayClient, RefusedRequest, TurnUpdate};
use command::TypedLine;

mod client;
mod command;

/// Width of a finding's bar.
const BAR: usize = 20;
/// What stands in the place of the report of a picture that looks like no chest X-ray.
const KEPT_BACK: &str = "  its report is shown by /show";
/// What asks for a line.
const PROMPT: &str = "> ";

/// Talk about a chest X-ray: findings, report, then questions
///
/// Everything runs in this process, or, with --url, at a gateway. Answers stream as they are written;
/// Ctrl-C stops one. Lines are edited with the arrows, and those before come back with arrow up, in
/// this process only; Ctrl-D or Ctrl-C ends the conversation.
///
/// Examples:
///   radialog chat xray.png
///   radialog chat xray.jpg --url http://127.0.0.1:7860 --indication "cough for two weeks"
///   radialog chat --url http://127.0.0.1:7860 --resume 4f7c...
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct ChatArgs {
    /// PNG or JPEG file
    #[arg(required_unless_present = "resume")]
    image: Option<PathBuf>,
    /// Gateway to talk to, e.g. http://127.0.0.1:7860; services, bundle and device are its own. Default: one in this process
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Key of that gateway
    #[arg(
        long,
        env = "RADIALOG_API_KEY",
        hide_env_values = true,
        requires = "url",
        value_name = "KEY"
    )]
    api_key: Option<String>,
    /// Go on with an earlier conversation of that gateway
    #[arg(long, requires = "url", conflicts_with = "image", value_name = "ID")]
    resume: Option<String>,
    /// Why the image was taken
    #[arg(long, value_name = "TEXT")]
    indication: Option<String>,
    /// Model that answers, as /v1/models names it. Default: the gateway's first one
    #[arg(long, value_name = "NAME", conflicts_with = "resume")]
    model: Option<String>,
    /// Longest answer, in tokens
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=2048))]
    max_new_tokens: u32,
    #[command(flatten)]
    models: ModelArgs,
    #[command(flatten)]
    services: ServiceArgs,
}

/// Where lines come from.
enum TypedInput {
    /// A person types them.
    Terminal(LineEditor),
    /// A file or another program.
    Lines(Lines<BufReader<Stdin>>),
}

/// A conversation in the terminal.
struct TerminalConversation {
    client: GatewayClient,
    options: TurnOptions,
    input: TypedInput,
    findings: Option<FindingsReport>,
    /// The image's report, where it was kept back.
    report: String,
    id: String,
}

pub(crate) async fn run(args: ChatArgs) -> anyhow::Result<ExitCode> {
    if let Some(image) = args.image.as_deref().filter(|image| !image.is_file()) {
        return Err(UsageError(format!("there is no file '{}'", image.display())).into());
    }
    match &args.url {
        Some(url) => {
            let reason = "with --url a gateway answers, with its own services, bundle and device: leave it out";
            args.services.refuse_flags(reason)?;
            args.models.refuse_flags(reason)?;
            let id = converse(&args, url).await?;
            outln!("\nGo on with: radialog chat --url {url} --resume {id}");
        }
        None => run_embedded(&args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Converses with a gateway and workers of this process; nothing of it stays.
async fn run_embedded(args: &ChatArgs) -> anyhow::Result<()> {
    let (mut config, gateway_config) = args
        .services
        .load_quiet_with_gateway(&[("gateway.listen", Some("127.0.0.1:0".to_owned()))])?;
    // Dropped last, wherever this ends.
    let private = PrivateFolder::new()?;
    config
        .objects
        .directory
        .get_or_insert_with(|| private.path().join("objects"));
    let (stop, silent) = (CancellationToken::new(), Readiness::default());
    let _stopped_at_end = stop.clone().drop_guard();
    let embedded =
        EmbeddedGateway::start(config, gateway_config, &args.models, &silent, stop.clone()).await?;
    let url = embedded.url()?;
    let running = tokio::spawn(embedded.run());
    let outcome = converse(args, &url).await;
    stop.cancel();
    let ended = running
        .await
        .context("the gateway in this process ended unexpectedly")?;
    outcome?;
    ended
}

/// Converses with the gateway at `url` until the person ends it, and returns the conversation's id.
async fn converse(args: &ChatArgs, url: &str) -> anyhow::Result<String> {
    let client = GatewayClient::new(url, args.api_key.clone())?;
    let options = TurnOptions {
        max_new_tokens: Some(args.max_new_tokens),
        ..TurnOptions::default()
    };
    outln!("Research use only. Not a medical device. /help lists what can be asked.\n");
    let view = match (&args.image, &args.resume) {
        (Some(image), _) => client
            .begin(
                image,
                args.indication.as_deref(),
                args.model.as_deref(),
                &options,
            )
            .await
            .map_err(unmeant)?,
        (None, Some(id)) => client.conversation(id).await.map_err(unmeant)?,
        (None, None) => {
            return Err(UsageError("name an image, or --resume a conversation".into()).into());
        }
    };
    let is_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let input = match is_terminal {
        true => TypedInput::Terminal(LineEditor::new()?),
        false => TypedInput::Lines(BufReader::new(tokio::io::stdin()).lines()),
    };
    let mut conversation = TerminalConversation {
        client,
        options,
        input,
        findings: None,
        report: String::new(),
        id: view.id.0.clone(),
    };
    conversation.replay(&view).await?;
    // Nobody is left to read an answer where the output is closed.
    while let Some(line) = conversation.ask_for_line().await? {
        match command::parse(&line) {
            Ok(TypedLine::Nothing) => {}
            Ok(TypedLine::Quit) => break,
            Ok(TypedLine::Help) => outln!("{}", command::HELP),
            Ok(TypedLine::Show) => conversation.show_findings(),
            Ok(TypedLine::Save(file)) => {
                if let Err(error) = conversation.save(Path::new(&file)).await {
                    outln!("{error:#}");
                }
            }
            Ok(TypedLine::Ask(ask)) => {
                let (id, options) = (&conversation.id, &conversation.options);
                match unless_interrupted(conversation.client.ask(id, ask, options)).await {
                    Ok(turn) => conversation.follow(&turn).await?,
                    Err(error) => outln!("{error:#}"),
                }
            }
            Err(words) => outln!("{words}"),
        }
    }
    Ok(conversation.id)
}

/// What a gateway refuses at the beginning is the command line's fault: the file is no image, the key or the conversation is not known.
fn unmeant(error: anyhow::Error) -> anyhow::Error {
    match error.is::<RefusedRequest>() {
        true => usage(error),
        false => error,
    }
}

impl TerminalConversation {
    /// Shows what there is of a conversation, and follows what is not over.
    async fn replay(&mut self, view: &ConversationView) -> anyhow::Result<()> {
        self.findings.clone_from(&view.findings);
        if let Some(findings) = &self.findings {
            tell_findings(findings);
        }
        for turn in &view.turns {
            if turn.turn > 1 {
                outln!("> {}", turn.asked.as_deref().unwrap_or_default().trim());
            }
            let words = turn.edited.as_ref().unwrap_or(&turn.text).trim_start();
            let is_kept = !words.is_empty() && is_kept_back(turn, self.findings.as_ref());
            if is_kept {
                words.clone_into(&mut self.report);
            } else {
                out!("{words}");
            }
            if !turn.status.is_final() {
                self.follow(turn).await?;
            } else if is_kept {
                self.report.push_str(&ending(turn));
                outln!("{KEPT_BACK}\n");
            } else {
                outln!("{}\n", ending(turn));
            }
        }
        Ok(())
    }

    /// The next line; none at the end of input, or after Ctrl-C.
    async fn ask_for_line(&mut self) -> anyhow::Result<Option<String>> {
        let lines = match &mut self.input {
            TypedInput::Terminal(editor) => {
                return tokio::select! {
                    line = editor.read(PROMPT) => line,
                    _ = tokio::signal::ctrl_c() => Ok(None),
                };
            }
            TypedInput::Lines(lines) => lines,
        };
        if std::io::stdin().is_terminal() {
            out!("{PROMPT}");
        }
        if crate::print::is_closed() {
            return Ok(None);
        }
        tokio::select! {
            line = lines.next_line() => line.context("cannot read what is typed"),
            _ = tokio::signal::ctrl_c() => Ok(None),
        }
    }

    /// Prints an answer as it comes. Ctrl-C stops it.
    async fn follow(&mut self, turn: &TurnView) -> anyhow::Result<()> {
        let (findings, report) = (&mut self.findings, &mut self.report);
        let mut begun = !turn.text.trim().is_empty();
        let mut following = std::pin::pin!(self.client.follow(turn, |update| {
            let update = match update {
                // The model's answers begin with a blank.
                TurnUpdate::Token(text) if !begun => {
                    begun = !text.trim().is_empty();
                    TurnUpdate::Token(text.trim_start().to_owned())
                }
                update => update,
            };
            match update {
                TurnUpdate::Token(text) if is_kept_back(turn, findings.as_ref()) => {
                    report.push_str(&text);
                }
                TurnUpdate::Done(done) if is_kept_back(turn, findings.as_ref()) => {
                    report.push_str(&ending(&done));
                    outln!("{KEPT_BACK}");
                }
                update => show_update(update, findings),
            }
        }));
        let outcome = tokio::select! {
            outcome = &mut following => outcome,
            _ = tokio::signal::ctrl_c() => {
                unless_interrupted(async {
                    self.client.cancel(&self.id, turn.turn).await?;
                    following.await
                })
                .await
            }
        };
        outln!();
        if let Err(error) = outcome {
            outln!("{error:#}");
        }
        Ok(())
    }

    fn show_findings(&self) {
        match &self.findings {
            Some(findings) => print_findings(findings),
            None => outln!("there are no findings yet"),
        }
        if !self.report.is_empty() {
            outln!("{}\n", self.report);
        }
    }

    async fn save(&self, file: &Path) -> anyhow::Result<()> {
        let view = unless_interrupted(self.client.conversation(&self.id)).await?;
        let text = serde_json::to_string_pretty(&view)?;
        // It has what came from a patient.
        match durable::replace_for(Readers::Owner, file, text.as_bytes()) {
            Ok(()) => outln!("saved in {}", file.display()),
            Err(error) => outln!(
                "cannot write {}: {error}; give /save a place that can be written",
                file.display()
            ),
        }
        Ok(())
    }
}

/// Waits for a gateway until Ctrl-C.
async fn unless_interrupted<T>(
    request: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::select! {
        answer = request => answer,
        _ = tokio::signal::ctrl_c() => {
            bail!("stopped waiting for the gateway; what was asked may still be done")
        }
    }
}

fn show_update(update: TurnUpdate, known: &mut Option<FindingsReport>) {
    match update {
        TurnUpdate::Queued(0) => {}
        TurnUpdate::Queued(position) => outln!("({position} waiting before this)"),
        TurnUpdate::Findings(findings) => {
            tell_findings(&findings);
            *known = Some(findings);
        }
        TurnUpdate::Token(text) => {
            out!("{text}");
            // A terminal that is gone is noticed at the next line.
        }
        TurnUpdate::Done(turn) => outln!("{}", ending(&turn)),
        TurnUpdate::Failed(error) => outln!("[{}: {}]", error.code, error.message),
        TurnUpdate::Lost => errln!("(the connection was lost, trying again)"),
    }
}

/// What is to be said after an answer.
fn ending(turn: &TurnView) -> String {
    let cut = turn.usage.as_ref().is_some_and(|usage| !usage.complete);
    let mut words = if cut {
        " [cut at the longest answer]".to_owned()
    } else {
        String::new()
    };
    match (turn.status, &turn.error) {
        (TurnStatus::Cancelled, _) => words.push_str(" [stopped]"),
        (_, Some(error)) => words.push_str(&format!(" [{}: {}]", error.code, error.message)),
        _ => {}
    }
    if !turn.dropped_turns.is_empty() {
        let dropped: Vec<String> = turn.dropped_turns.iter().map(u32::to_string).collect();
        words.push_str(&format!(
            " [without turn {}, which the context had no room for]",
            dropped.join(", ")
        ));
    }
    if !turn.comparisons.is_empty() {
        let compared: Vec<String> = turn
            .comparisons
            .iter()
            .map(|mark| format!("{:?}", mark.words))
            .collect();
        words.push_str(&format!(
            " [compares with an earlier image, which the model has not seen: {}]",
            compared.join(", ")
        ));
    }
    words
}

/// Whether findings, and the report of their image, are shown only where a person asks for them.
fn is_no_xray(report: &FindingsReport) -> bool {
    let gate = report.input_gate.as_ref();
    gate.is_some_and(GateVerdict::is_no_xray)
}

/// Whether a turn is the report of such an image. Whatever comes later, a person has asked for.
fn is_kept_back(turn: &TurnView, findings: Option<&FindingsReport>) -> bool {
    turn.turn == 1 && findings.is_some_and(is_no_xray)
}

/// Shows findings as they come; of a picture that is no chest X-ray, how to see them.
fn tell_findings(report: &FindingsReport) {
    if is_no_xray(report) {
        print_warnings(report);
        outln!("  its findings are shown by /show\n");
    } else {
        print_findings(report);
    }
}

fn print_warnings(report: &FindingsReport) {
    for warning in &report.warnings {
        outln!("  warning: {warning}");
    }
}

fn print_findings(report: &FindingsReport) {
    print_warnings(report);
    for predicted in &report.findings {
        let Some(probability) = predicted.probability else {
            outln!(
                "  {:26} not assessed by this model",
                predicted.finding.name()
            );
            continue;
        };
        let filled = (probability * BAR as f32).round() as usize;
        let bar: String = (0..BAR)
            .map(|at| if at < filled { '#' } else { '.' })
            .collect();
        let mark = match predicted.is_shown(&report.findings) {
            true => format!("present{}", over_threshold(predicted)),
            false => String::new(),
        };
        outln!(
            "  {:26} {bar} {:3.0} % {mark}",
            predicted.finding.name(),
            probability * 100.0
        );
    }
    outln!();
}
