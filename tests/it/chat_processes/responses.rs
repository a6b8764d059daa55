//! Responses as their clients have them while a worker and a gateway are killed: no step is missed, none comes twice, and
//! the answer is the one that is written when nothing breaks.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use radialog_tests::fixtures::xray;
use serde_json::{Value, json};

use super::{BREAK_AFTER, ChatCluster, GatewayProcess, LONG, TIMEOUT};
use crate::gateway::sse::SseStream;

/// The steps of a response that were read.
#[derive(Default)]
struct ReadSteps {
    steps: Vec<Value>,
}

impl ReadSteps {
    fn is_over(&self) -> bool {
        let last = self.steps.last();
        last.is_some_and(|step| {
            step["type"] == "response.incomplete" || step["type"] == "response.completed"
        })
    }

    fn text(&self) -> String {
        let deltas = self.steps.iter().filter_map(|step| step["delta"].as_str());
        deltas.collect()
    }

    /// Reads so many steps more, or to the end; after every loss again behind the last one that was read.
    async fn read(
        &mut self,
        cluster: &ChatCluster,
        gateways: &[&GatewayProcess],
        path: &str,
        count: u64,
    ) -> Result<()> {
        let (began, mut left, mut attempt) = (Instant::now(), count, 0);
        while left > 0 && !self.is_over() {
            ensure!(
                began.elapsed() < TIMEOUT,
                "no end after {} steps; worker said:\n{}",
                self.steps.len(),
                cluster.processes.log("worker")
            );
            let gateway = gateways[attempt % gateways.len()];
            attempt += 1;
            let after = match self.steps.len() {
                0 => String::new(),
                read => format!("&starting_after={}", read - 1),
            };
            let url = format!("{}{path}?stream=true{after}", gateway.url);
            let response = match cluster.client.get(url).send().await {
                Ok(response) if response.status() == 200 => response,
                _ => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let mut events = SseStream::new(response);
            while left > 0 && !self.is_over() {
                let next = tokio::time::timeout(Duration::from_secs(5), events.next());
                let Ok(Ok(Some(event))) = next.await else {
                    break;
                };
                if event.name == "comment" {
                    continue;
                }
                let (number, read) = (&event.data["sequence_number"], self.steps.len());
                ensure!(*number == read, "step {number} came after {read} steps");
                self.steps.push(event.data);
                left -= 1;
            }
        }
        Ok(())
    }
}

/// Makes a response.
async fn create(cluster: &ChatCluster, gateway: &GatewayProcess, request: &Value) -> Result<Value> {
    let url = format!("{}/v1/responses", gateway.url);
    let response = cluster.client.post(url).json(request).send().await?;
    ensure!(response.status() == 200, "{}", response.text().await?);
    Ok(response.json().await?)
}

fn path_of(response: &Value) -> Result<String> {
    let id = response["id"].as_str().context("no id")?;
    Ok(format!("/v1/responses/{id}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_loses_no_step_while_its_worker_and_its_gateway_are_killed() -> Result<()> {
    let cluster = ChatCluster::new().await?;
    let (mut one, two) = (cluster.gateway().await?, cluster.gateway().await?);
    let _stages = [cluster.worker("embedding")?, cluster.worker("findings")?];
    let mut language = cluster.worker("language")?;

    let content = STANDARD.encode(std::fs::read(xray("00001300_000.jpg"))?);
    let url = format!("data:image/jpeg;base64,{content}");
    let message = json!({"role": "user", "content": [{"type": "input_image", "image_url": url}]});
    let report = json!({"model": "radialog", "input": [message], "max_output_tokens": 32});
    let report = create(&cluster, &one, &report).await?;
    ensure!(report["output"][0]["content"][0]["text"] != "", "{report}");

    // What is written when nothing breaks.
    let question = json!({
        "model": "radialog",
        "input": "Is there any effusion?",
        "previous_response_id": report["id"],
        "max_output_tokens": LONG,
        "background": true,
    });
    let calm = create(&cluster, &two, &question).await?;
    let mut expected = ReadSteps::default();
    expected
        .read(&cluster, &[&two], &path_of(&calm)?, u64::MAX)
        .await?;

    let broken = create(&cluster, &one, &question).await?;
    let path = path_of(&broken)?;
    let mut reader = ReadSteps::default();
    reader.read(&cluster, &[&one], &path, BREAK_AFTER).await?;
    let spare = cluster.worker("language")?;
    language.kill();
    reader.read(&cluster, &[&one], &path, BREAK_AFTER).await?;
    ensure!(
        !reader.is_over(),
        "the answer is over before the next fault: make it longer"
    );
    one.role.kill();
    reader.read(&cluster, &[&two], &path, u64::MAX).await?;
    ensure!(reader.text() == expected.text(), "the answer differs");
    ensure!(
        reader.steps.len() == expected.steps.len(),
        "the steps differ"
    );
    let mut again = ReadSteps::default();
    again.read(&cluster, &[&two], &path, u64::MAX).await?;
    ensure!(
        again.steps == reader.steps,
        "another reader sees other steps"
    );
    let end = &reader.steps.last().context("no step")?["response"];
    let url = format!("{}{path}", two.url);
    let shown: Value = cluster.client.get(url).send().await?.json().await?;
    ensure!(
        shown == *end,
        "the response is {shown}, its stream ended with {end}"
    );
    drop(spare);
    Ok(())
}
