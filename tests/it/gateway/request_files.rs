//! Files of requests: forms that go wrong, readers that do not read, and what is damaged or half removed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use radialog_schemas::ObjectKey;
use reqwest::multipart::{Form, Part};
use reqwest::{Method, Response};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::fixture::{GatewayFixture, RunningGateway, UNLIMITED, key};
use super::limits::{connect, eventually, rest};
use super::request_batches::{asked, jsonl, question, uploaded};

const FILES: &str = "/v1/files";

async fn send_form(gateway: &RunningGateway, content: Vec<u8>) -> Result<Response> {
    Ok(gateway
        .ask(Method::POST, FILES)
        .header("content-type", "multipart/form-data; boundary=edge")
        .body(content)
        .send()
        .await?)
}

async fn error_of(response: Response) -> Result<(u16, Value)> {
    let status = response.status().as_u16();
    let body: Value = response.json().await?;
    Ok((status, body["error"].clone()))
}

#[tokio::test]
async fn a_form_has_no_more_around_its_fields_than_it_may() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let gateway = &fixture.gateway;
    let many = "x".repeat(2 << 20);
    let purpose = "--edge\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n";
    for form in [
        format!("{many}\r\n{purpose}--edge--\r\n"),
        format!(
            "--edge\r\nContent-Disposition: form-data; name=\"file\"; x=\"{many}\"\r\n\r\nx\r\n--edge--\r\n"
        ),
        format!("{purpose}--edge\r\nX-Other: {many}\r\n\r\nx\r\n--edge--\r\n"),
        many.clone(),
    ] {
        let (status, error) = error_of(send_form(gateway, form.into_bytes()).await?).await?;
        assert_eq!((status, &error["code"]), (400, &"invalid_multipart".into()));
        assert!(error["message"].to_string().contains("65536"), "{error}");
    }
    // Who is refused gets to see it, however much was to follow.
    let large = Part::bytes(vec![b'x'; 16 << 20]).file_name("x");
    let form = Form::new().text("purpose", "fine-tune").part("file", large);
    let request = gateway.ask(Method::POST, FILES).multipart(form);
    let (status, error) = error_of(request.send().await?).await?;
    assert_eq!((status, &error["param"]), (400, &"purpose".into()));
    // A long file in small pieces, and one with as many line ends as a boundary could begin at.
    for content in [vec![b'\r'; 9 << 20], vec![b'x'; 9 << 20]] {
        let form = [
            purpose.as_bytes(),
            b"--edge\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n",
            &content,
            b"\r\n--edge--\r\n",
        ];
        let stored = send_form(gateway, form.concat()).await?;
        let stored: Value = stored.error_for_status()?.json().await?;
        assert_eq!(stored["bytes"], content.len());
        let id = stored["id"].as_str().context("no id")?;
        let read = gateway.get(&format!("{FILES}/{id}/content")).await?;
        assert!(read.bytes().await? == content, "it is another file");
    }
    let open = fixture
        .backends
        .objects
        .list(ObjectKey::OPEN_REQUEST_FILES, None, 9);
    assert!(open.await?.entries.is_empty());
    Ok(())
}

/// A header that would be ignored is refused, with a body that was not read.
#[tokio::test]
async fn an_idempotency_key_is_refused_where_nothing_is_remembered_by_it() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let gateway = &fixture.gateway;
    let large = Part::bytes(vec![b'x'; 16 << 20]).file_name("x");
    let form = Form::new().text("purpose", "batch").part("file", large);
    let body = serde_json::json!({"model": "fake", "messages": [{"role": "user", "content": "x"}]});
    let completion = gateway.ask(Method::POST, "/v1/chat/completions");
    for (request, instead) in [
        (
            gateway.ask(Method::POST, FILES).multipart(form),
            "delete what is there twice",
        ),
        (completion.json(&body), "/v1/responses"),
    ] {
        let response = request.header("idempotency-key", "one").send().await?;
        let (status, error) = error_of(response).await?;
        assert_eq!((status, &error["code"]), (400, &"invalid_request".into()));
        let message = error["message"].to_string();
        ensure!(
            message.contains("Idempotency-Key") && message.contains(instead),
            "{message}"
        );
    }
    let list = gateway.view(FILES).await?;
    assert_eq!(list["data"], serde_json::json!([]));
    Ok(())
}

#[tokio::test]
async fn an_upload_that_stands_still_ends_wherever_it_stands() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |config| {
        config.request_timeout = Duration::from_secs(1)
    })
    .await?;
    let head = "POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\
                Content-Type: multipart/form-data; boundary=edge\r\nContent-Length: 10000\r\n\r\n";
    for sent in [
        "",
        "--edge\r\nContent-Disposition: form",
        "--edge\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbat",
        "--edge\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\nx",
        "--edge\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\nx\r\n--edge\r\n",
    ] {
        let mut socket = connect(&fixture.gateway).await?;
        socket.write_all(format!("{head}{sent}").as_bytes()).await?;
        let answer = String::from_utf8(rest(socket).await?)?;
        ensure!(answer.starts_with("HTTP/1.1 408"), "{sent}: {answer}");
        ensure!(answer.contains("too slowly"), "{sent}: {answer}");
    }
    let stored = fixture
        .backends
        .objects
        .list(ObjectKey::REQUEST_FILES, None, 9);
    assert!(stored.await?.entries.is_empty());
    Ok(())
}

#[tokio::test]
async fn readers_that_do_not_read_hold_their_own_keys_memory() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |config| {
        config.keys = vec![key("ward", "one"), key("lab", "two")];
        config.body_memory = 40 << 20;
        (config.rate, config.concurrent) = (1000, 1000);
    })
    .await?;
    let (ward, lab) = (
        fixture.gateway.as_owner("one"),
        fixture.gateway.as_owner("two"),
    );
    // More than sockets hold.
    let large = uploaded(&ward, "x".repeat(24 << 20)).await?;
    let small = uploaded(&lab, "x".repeat(1 << 20)).await?;
    let content = |file: &str| format!("{FILES}/{file}/content");
    let mut open = Vec::new();
    let refused = loop {
        let response = ward.get(&content(&large)).await?;
        match response.status().is_success() {
            true => open.push(response),
            false => break response,
        }
        ensure!(open.len() < 100, "nobody counts what is read");
    };
    assert_eq!(refused.status(), 429);
    assert_eq!(open.len(), 17, "of a mebibyte each");
    let other = lab.get(&content(&small)).await?.error_for_status()?;
    assert_eq!(other.bytes().await?.len(), 1 << 20);
    open.clear();
    let readable = || async { Ok(ward.get(&content(&large)).await?.status() == 200) };
    eventually(readable).await
}

#[tokio::test]
async fn a_reader_that_takes_no_piece_for_too_long_loses_its_connection_and_its_memory()
-> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |config| {
        config.body_memory = 40 << 20;
        (config.rate, config.concurrent) = (1000, 1000);
        config.request_timeout = Duration::from_secs(10);
    })
    .await?;
    let gateway = &fixture.gateway;
    let large = uploaded(gateway, "x".repeat(24 << 20)).await?;
    let content = format!("{FILES}/{large}/content");
    let mut open = Vec::new();
    loop {
        let response = gateway.get(&content).await?;
        match response.status().is_success() {
            true => open.push(response),
            false => break,
        }
        ensure!(open.len() < 100, "nobody counts what is read");
    }
    let readable = || async { Ok(gateway.get(&content).await?.status() == 200) };
    eventually(readable).await?;
    // Those that are read in time go on.
    for response in open {
        if response.bytes().await.is_err() {
            return Ok(());
        }
    }
    anyhow::bail!("none was cut")
}

#[tokio::test]
async fn what_is_damaged_is_listed_and_removed_and_so_is_what_a_removal_has_left() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let (gateway, objects) = (&fixture.gateway, &fixture.backends.objects);
    let requests = || jsonl(&[question("a", "x")]);
    let damaged = uploaded(gateway, requests()).await?;
    let whole = uploaded(gateway, requests()).await?;
    let heads = objects.list(ObjectKey::REQUEST_FILE_HEADS, None, 9).await?;
    let [first, second] = &*heads.entries else {
        anyhow::bail!("{heads:?}");
    };
    objects.put(&first.key, "{\"bytes\": 7".into()).await?;
    let list = gateway.view(FILES).await?;
    let listed = list["data"].as_array().context("no list")?.iter();
    let listed: Vec<_> = listed
        .map(|file| {
            (
                file["id"].as_str().unwrap(),
                file["status"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(listed, [(&*whole, "processed"), (&*damaged, "error")]);
    let content = gateway.get(&format!("{FILES}/{damaged}/content")).await?;
    assert_eq!(error_of(content).await?.0, 400);
    let batch = gateway.post("/v1/batches", &asked(&damaged)).await?;
    let (status, error) = error_of(batch).await?;
    assert_eq!((status, &error["param"]), (400, &"input_file_id".into()));
    // As where a gateway is killed in the middle of a removal.
    objects.delete(&second.key).await?;
    for file in [&damaged, &whole] {
        let path = format!("{FILES}/{file}");
        assert_eq!(gateway.delete(&path).await?, 200);
        assert_eq!(gateway.delete(&path).await?, 404);
    }
    let left = objects.list(ObjectKey::REQUEST_FILES, None, 9).await?;
    assert!(left.entries.is_empty(), "{left:?}");
    Ok(())
}
