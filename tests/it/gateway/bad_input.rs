//! What cannot be taken is refused with its code, and nothing of it is kept.

use anyhow::Result;
use reqwest::multipart::{Form, Part};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fixture::{GatewayFixture, UNLIMITED, data_uri, problem, xray};

/// Status and code of a refused conversation.
async fn refused(fixture: &GatewayFixture, body: &Value) -> Result<(u16, String)> {
    let (status, code, _) = problem(fixture.gateway.post("/v1/conversations", body).await?).await?;
    Ok((status, code))
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    file.extend(width.to_be_bytes());
    file.extend(height.to_be_bytes());
    file.extend(b"\x08\0\0\0\0");
    let checksum = crc32fast::hash(&file[12..]);
    file.extend(checksum.to_be_bytes());
    file.extend(b"\0\0\0\0IEND\xaeB`\x82");
    file
}

#[tokio::test]
async fn bad_images_are_refused_by_what_is_wrong_with_them() -> Result<()> {
    let fixture =
        GatewayFixture::with(UNLIMITED, |config| config.max_image_bytes = 1 << 20).await?;
    let image = |content: &[u8]| json!({"image": data_uri(content)});
    let large = [xray(), vec![0; 1 << 20]].concat();
    let mut damaged = png(600, 500);
    // The width would be over the limit.
    damaged[16] ^= 1;
    for (what, body, status, code) in [
        ("too large", image(&large), 413, "image_too_large"),
        (
            "too many pixels",
            image(&png(60_000, 60_000)),
            413,
            "image_too_large",
        ),
        ("a strip", image(&png(1, 1000)), 422, "image_dimensions"),
        (
            "wrong type",
            image(b"GIF89a and so on"),
            415,
            "image_format_unsupported",
        ),
        (
            "claimed wrong type",
            json!({"image": "data:image/gif;base64,AAAA"}),
            415,
            "image_format_unsupported",
        ),
        (
            "cut in its header",
            image(&xray()[..20]),
            422,
            "image_corrupt",
        ),
        (
            "a header of another checksum",
            image(&damaged),
            422,
            "image_corrupt",
        ),
        (
            "no bytes",
            json!({"image": "data:image/png;base64,"}),
            422,
            "image_corrupt",
        ),
        (
            "no base64",
            json!({"image": "data:image/png;base64,%%%"}),
            422,
            "invalid_request",
        ),
        (
            "an address",
            json!({"image": "http://127.0.0.1:9/x.png"}),
            422,
            "remote_url",
        ),
        (
            "a file",
            json!({"image": "file:///etc/passwd"}),
            422,
            "remote_url",
        ),
    ] {
        assert_eq!(
            refused(&fixture, &body).await?,
            (status, code.to_owned()),
            "{what}"
        );
    }
    assert_eq!(fixture.stored("images").len(), 0);
    let list: Value = fixture
        .gateway
        .get("/v1/conversations")
        .await?
        .json()
        .await?;
    assert_eq!(list, json!({"conversations": []}));
    Ok(())
}

#[tokio::test]
async fn an_image_that_only_its_decoder_finds_corrupt_fails_its_turns_with_the_code() -> Result<()>
{
    let fixture = GatewayFixture::start().await?;
    // A whole file by its markers; the fake stages do not decode, so that only the header counts here.
    let path = fixture
        .gateway
        .begin(&json!({"image": data_uri(&xray())}))
        .await?;
    fixture.gateway.view_when(&path, 1, "done").await?;
    let id = radialog_schemas::ConversationId::from("0".repeat(32).as_str());
    let mut conversation = fixture
        .backends
        .conversations
        .snapshot(&path.rsplit('/').next().unwrap().into())
        .await?
        .unwrap();
    conversation.conversation.id = id.clone();
    let image = conversation.conversation.image.clone().unwrap().image;
    let requests = [conversation.turns[0].request.clone()];
    fixture
        .backends
        .conversations
        .create(&conversation.conversation, &requests)
        .await?;
    let failure =
        radialog_schemas::Failure::new(radialog_schemas::ErrorCode::ImageCorrupt, "copy it again");
    fixture
        .backends
        .conversations
        .image_prepared(&id, &image, &Err(failure))
        .await?;
    let view = fixture
        .gateway
        .view(&format!("/v1/conversations/{id}"))
        .await?;
    assert_eq!(
        view["turns"][0]["error"],
        json!({"code": "image_corrupt", "message": "copy it again"})
    );
    let events = fixture
        .gateway
        .follow(&format!("/v1/conversations/{id}"), 1, None)
        .await?
        .rest()
        .await?;
    assert_eq!(events.last().unwrap().data["code"], "image_corrupt");
    Ok(())
}

#[tokio::test]
async fn bad_texts_are_refused_with_the_limit_named() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    for text in ["", " \n\t", " \n\u{200b}"] {
        assert_eq!(
            refused(&fixture, &json!({"question": text})).await?,
            (422, "text_empty".to_owned())
        );
    }
    let long = "x".repeat(100_000);
    assert_eq!(
        refused(&fixture, &json!({"question": long})).await?,
        (422, "text_too_long".to_owned())
    );
    assert_eq!(
        refused(&fixture, &json!({"question": "x", "indication": long})).await?,
        (422, "text_too_long".to_owned())
    );
    let path = fixture
        .gateway
        .begin(&json!({"question": "x".repeat(16_000)}))
        .await?;
    let turns = format!("{path}/turns");
    let response = fixture
        .gateway
        .post(&turns, &json!({"task": "question", "text": long}))
        .await?;
    let body = response.json::<Value>().await?;
    assert!(body["detail"].as_str().unwrap().contains("16000"), "{body}");
    for body in [
        json!({"task": "correction"}),
        json!({"task": "correction", "add": ["Edema"], "remove": ["Edema"]}),
        json!({"task": "correction", "add": ["Broken heart"]}),
        json!({"task": "reasons", "findings": []}),
        json!({"task": "region", "region": "knee"}),
        json!({"task": "dance"}),
        json!({"text": "no task"}),
        json!({"task": "summary", "max_new_tokens": 0}),
        json!({"task": "summary", "temperature": 3}),
        json!([]),
    ] {
        let (status, code, _) = problem(fixture.gateway.post(&turns, &body).await?).await?;
        assert_eq!((status, code.as_str()), (422, "invalid_request"), "{body}");
    }
    Ok(())
}

#[tokio::test]
async fn bodies_that_cannot_be_read_are_refused_by_what_is_wrong_with_them() -> Result<()> {
    let fixture =
        GatewayFixture::with(UNLIMITED, |config| config.max_image_bytes = 1 << 20).await?;
    let send = |kind: Option<&str>, body: Vec<u8>| {
        let request = fixture
            .gateway
            .ask(Method::POST, "/v1/conversations")
            .body(body);
        let request = match kind {
            Some(kind) => request.header("Content-Type", kind),
            None => request,
        };
        async move {
            let (status, code, _) = problem(request.send().await?).await?;
            anyhow::Ok((status, code))
        }
    };
    let json = Some("application/json");
    let is = |status: u16, code: &str| (status, code.to_owned());
    assert_eq!(
        send(json, b"{\"question\": ".to_vec()).await?,
        is(400, "invalid_json")
    );
    assert_eq!(
        send(json, b"{\"question\": \"\xff\xfe\"}".to_vec()).await?,
        is(400, "invalid_utf8")
    );
    assert_eq!(
        send(json, b"{}".to_vec()).await?,
        is(422, "invalid_request")
    );
    assert_eq!(
        send(json, b"{\"question\": 7}".to_vec()).await?,
        is(422, "invalid_request")
    );
    let deep = format!("{{\"question\": {}", "[".repeat(10_000));
    assert_eq!(
        send(json, deep.into_bytes()).await?,
        is(422, "invalid_request")
    );
    assert_eq!(
        send(Some("text/plain"), b"hello".to_vec()).await?,
        is(415, "unsupported_media_type")
    );
    assert_eq!(
        send(None, b"hello".to_vec()).await?,
        is(415, "unsupported_media_type")
    );
    assert_eq!(
        send(Some("multipart/form-data"), b"x".to_vec()).await?,
        is(400, "invalid_multipart")
    );
    assert_eq!(
        send(
            Some("multipart/form-data; boundary=b"),
            b"--b\r\nx".to_vec()
        )
        .await?,
        is(400, "invalid_multipart")
    );
    assert_eq!(
        send(json, vec![b' '; 8 << 20]).await?,
        is(413, "body_too_large")
    );
    let form = Form::new().part("question", Part::bytes(b"\xff\xfe".to_vec()));
    let response = fixture
        .gateway
        .ask(Method::POST, "/v1/conversations")
        .multipart(form)
        .send()
        .await?;
    assert_eq!(problem(response).await?.1, "invalid_utf8");
    let form = Form::new()
        .text("question", "x")
        .text("max_new_tokens", "many");
    let response = fixture
        .gateway
        .ask(Method::POST, "/v1/conversations")
        .multipart(form)
        .send()
        .await?;
    assert_eq!(problem(response).await?.1, "invalid_request");
    let image = || Part::bytes(super::fixture::xray());
    for (form, named) in [
        (
            Form::new().part("image", image()).part("image", image()),
            "'image' twice",
        ),
        (Form::new().part("file", image()), "'file'"),
        (
            Form::new().text("question", "x").text("question", "y"),
            "'question' twice",
        ),
    ] {
        let request = fixture.gateway.ask(Method::POST, "/v1/conversations");
        let response = request.multipart(form).send().await?;
        assert_eq!(response.status(), 422);
        let text = response.text().await?;
        assert!(text.contains(named), "{text}");
    }
    Ok(())
}

/// Status and detail of a refusal; of OpenAI's paths, too.
async fn refusal(response: Response) -> Result<(u16, String)> {
    let status = response.status().as_u16();
    let body: Value = response.json().await?;
    let detail = body["detail"]
        .as_str()
        .or_else(|| body["error"]["message"].as_str());
    Ok((status, detail.unwrap_or_default().to_owned()))
}

#[tokio::test]
async fn a_field_that_is_not_known_is_refused_by_its_name_wherever_a_body_is_read() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let gateway = &fixture.gateway;
    let path = gateway.begin(&json!({"question": "x"})).await?;
    let before = gateway.view_when(&path, 1, "done").await?;
    let (put, post) = (Method::PUT, Method::POST);
    let messages = json!([{"role": "user", "content": "x"}]);
    for (method, route, body, named, status) in [
        (
            &post,
            "/v1/conversations".to_owned(),
            json!({"question": "x", "indicaton": "cough"}),
            "indicaton",
            422,
        ),
        (
            &post,
            "/v1/conversations".to_owned(),
            json!({"question": "x", "seed": -1}),
            "'seed'",
            422,
        ),
        (
            &post,
            format!("{path}/turns"),
            json!({"task": "question", "text": "x", "tempature": 1}),
            "tempature",
            422,
        ),
        (
            &post,
            format!("{path}/turns"),
            json!({"task": "summary", "text": "only the left lung"}),
            "'text'",
            422,
        ),
        (
            &post,
            format!("{path}/turns"),
            json!({"task": "summary", "max_new_tokens": 1_u64 << 63}),
            "'max_new_tokens'",
            422,
        ),
        (
            &post,
            format!("{path}/turns"),
            json!({"task": "summary", "top_p": 0.5}),
            "'top_p'",
            422,
        ),
        (
            &put,
            format!("{path}/turns/1/edit"),
            json!({"text": "mine", "extra": 1}),
            "extra",
            422,
        ),
        (
            &put,
            format!("{path}/turns/1/rating"),
            json!({"rating": "good", "extra": 1}),
            "extra",
            422,
        ),
        (
            &put,
            format!("{path}/title"),
            json!({"title": "mine", "extra": 1}),
            "extra",
            422,
        ),
        (
            &post,
            "/v1/archives".to_owned(),
            json!({"archive": "s3://archive/x", "stage": ["findings"]}),
            "stage",
            422,
        ),
        (
            &post,
            "/v1/chat/completions".to_owned(),
            json!({"model": "fake", "messages": messages, "tempature": 1}),
            "tempature",
            400,
        ),
        (
            &post,
            "/v1/responses".to_owned(),
            json!({"model": "fake", "input": "x", "tempature": 1}),
            "tempature",
            400,
        ),
        (
            &post,
            "/v1/batches".to_owned(),
            json!({"input_file_id": "file-x", "endpoint": "/v1/responses", "completion_window": "24h", "window": 1}),
            "window",
            400,
        ),
    ] {
        let response = gateway.ask(method.clone(), &route).json(&body).send();
        let (found, detail) = refusal(response.await?).await?;
        assert_eq!(found, status, "{route}: {detail}");
        assert!(detail.contains(named), "{route}: {detail}");
    }
    assert_eq!(gateway.view(&path).await?, before);
    let list = gateway.view("/v1/conversations").await?;
    assert_eq!(list["conversations"].as_array().map(Vec::len), Some(1));
    let form = Form::new().text("question", "x").text("seed", "-1");
    let response = gateway.ask(Method::POST, "/v1/conversations");
    let (status, detail) = refusal(response.multipart(form).send().await?).await?;
    assert_eq!(status, 422, "{detail}");
    assert!(detail.starts_with("'seed'"), "{detail}");
    Ok(())
}

#[tokio::test]
async fn what_an_operation_would_not_look_at_is_refused() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let gateway = &fixture.gateway;
    let path = gateway.begin(&json!({"question": "x"})).await?;
    gateway.view_when(&path, 1, "done").await?;
    let conversations = "/v1/conversations";
    for (route, named, status) in [
        (format!("{conversations}?limit=-1"), "'limit'", 422),
        (format!("{conversations}?after=zzz"), "'after'", 422),
        (format!("{path}?x=1"), "'x'", 422),
        (format!("{path}/turns/1/events?aftr=3"), "'aftr'", 422),
        (format!("{path}/turns/1/events?after=x"), "'after'", 422),
        (
            format!("{path}/turns/1/events?lastEventId=x"),
            "'lastEventId'",
            422,
        ),
        (
            format!("{path}/turns/1/events?lastEventId=1&lastEventId=2"),
            "'lastEventId'",
            422,
        ),
        ("/v1/models?limt=1".to_owned(), "'limt'", 400),
        ("/v1/files?limt=1".to_owned(), "'limt'", 400),
    ] {
        let (found, detail) = refusal(gateway.get(&route).await?).await?;
        assert_eq!(found, status, "{route}: {detail}");
        assert!(detail.contains(named), "{route}: {detail}");
    }
    // What clients say of their own version changes nothing.
    for list in ["models", "files", "batches"] {
        let route = format!("/v1/{list}?api-version=2024-10-21");
        assert_eq!(gateway.get(&route).await?.status(), 200, "{list}");
    }
    let asked = json!({"task": "summary"});
    let post = |route: &str| gateway.ask(Method::POST, route).json(&asked);
    let turns = format!("{path}/turns");
    let delete = gateway.ask(Method::DELETE, &path);
    for (request, named) in [
        (post(&format!("{turns}?temperature=1")), "'temperature'"),
        (post(&turns).header("If-Match", "\"zzz\""), "If-Match"),
        (delete.header("If-Match", "\"zzz\""), "If-Match"),
        (
            post(&turns)
                .header("Idempotency-Key", "one")
                .header("Idempotency-Key", "two"),
            "Idempotency-Key",
        ),
    ] {
        let (status, detail) = refusal(request.send().await?).await?;
        assert_eq!(status, 422, "{detail}");
        assert!(detail.contains(named), "{detail}");
    }
    let view = gateway.view(&path).await?;
    assert_eq!(view["turns"].as_array().map(Vec::len), Some(1));
    Ok(())
}

#[tokio::test]
async fn what_is_not_there_is_not_found_and_what_cannot_be_done_says_so() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let path = fixture.gateway.begin(&json!({"question": "x"})).await?;
    let nobody = format!("/v1/conversations/{}", "0".repeat(32));
    for missing in [
        nobody.clone(),
        format!("{nobody}/turns/1/events"),
        format!("{nobody}/image"),
        "/v1/conversations/../../etc/passwd".into(),
        "/v1/conversations/%ff%fe".into(),
        "/v1/conversations/ID".into(),
        format!("{path}/turns/0"),
        format!("{path}/turns/2"),
        format!("{path}/turns/+1"),
        format!("{path}/turns/99999999999999999999"),
        format!("{path}/image"),
        "/nothing".into(),
    ] {
        assert_eq!(
            problem(fixture.gateway.get(&missing).await?).await?.1,
            "not_found",
            "{missing}"
        );
    }
    let response = fixture.gateway.ask(Method::PATCH, &path).send().await?;
    assert!(response.headers()["allow"].to_str()?.contains("DELETE"));
    assert_eq!(
        problem(response).await?,
        (405, "method_not_allowed".into(), None)
    );
    for key in ["x".repeat(256), String::new(), "x\ty".into()] {
        let request = fixture
            .gateway
            .ask(Method::POST, "/v1/conversations")
            .header("Idempotency-Key", &key);
        let response = request.json(&json!({"question": "x"})).send().await?;
        assert_eq!(problem(response).await?.1, "invalid_request", "{key:?}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_no_http_does_not_disturb() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let address = fixture.gateway.url.trim_start_matches("http://").to_owned();
    for garbage in [
        &b"\x16\x03\x01\x02\0\x01\0"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        &[b'x'; 100_000],
    ] {
        let mut socket = TcpStream::connect(&address).await?;
        socket.write_all(garbage).await?;
        let mut answer = Vec::new();
        // Some of it is answered with 400, some only with the end of the connection.
        let _ = tokio::time::timeout(
            std::time::Duration::from_secs(5),
            socket.read_to_end(&mut answer),
        )
        .await;
    }
    assert_eq!(fixture.gateway.get("/v1/models").await?.status(), 200);
    Ok(())
}
