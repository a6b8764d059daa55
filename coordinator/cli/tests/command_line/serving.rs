//! A service in a bad place: without a home, on a full disk, asked about an X-ray that it was not given.
#![expect(
    clippy::print_stderr,
    reason = "what is not tested here is not passed over"
)]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::patience::InTime;
use super::people::XRAYS;
use super::{text, until};

/// Longer than an answer takes, on a machine that others keep busy, too.
const PATIENCE: Duration = Duration::from_secs(300);

/// `radialog serve` over objects in this folder.
struct Service {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Service {
    fn start(dir: &Path, objects: &Path) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let log = dir.join("log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_radialog"));
        command.args([
            "serve",
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--objects",
        ]);
        command.arg(objects).current_dir(dir).stdin(Stdio::null());
        let child = command
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap());
        let service = Self {
            child: child.spawn().unwrap(),
            port,
            log,
        };
        until("it does not listen", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        service
    }

    /// The status and the body of an answer.
    fn ask(&self, what: &str, kind: &str, body: &[u8]) -> (u16, Value) {
        let (status, _, body) = self.ask_with_head(what, kind, body);
        (status, body)
    }

    /// The same, with the headers between the two.
    fn ask_with_head(&self, what: &str, kind: &str, body: &[u8]) -> (u16, String, Value) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "{what} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        assert!(read.is_ok(), "no whole answer to {what}: {read:?}");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        // Chunked or not, the document is between its braces.
        let body = &body[body.find('{').unwrap()..=body.rfind('}').unwrap()];
        let body = serde_json::from_str(body).unwrap_or_default();
        (status, head.to_owned(), body)
    }

    fn upload(&self, image: &str) -> (u16, Value) {
        let mut body =
            b"--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"i.jpg\"\r\n\r\n"
                .to_vec();
        body.extend(fs::read(Path::new(XRAYS).join(image)).unwrap());
        body.extend(b"\r\n--x--\r\n");
        self.ask(
            "POST /v1/conversations",
            "multipart/form-data; boundary=x",
            &body,
        )
    }

    fn completion(&self, messages: Value) -> (u16, Value) {
        let body = json!({"model": "radialog", "messages": messages}).to_string();
        self.ask(
            "POST /v1/chat/completions",
            "application/json",
            body.as_bytes(),
        )
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn without_an_image_the_demo_says_so_and_invents_no_findings() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start(dir.path(), &dir.path().join("objects"));
    let user = |text: &str| json!({"role": "user", "content": text});
    let greeting = json!({"role": "assistant", "content": "How can I help?"});
    for messages in [
        json!([user("Write the report of this chest X-ray.")]),
        json!([user("Hello")]),
        json!([greeting, user("Is there a pneumothorax?")]),
        json!([user("Hello"), greeting, user("And the heart?")]),
    ] {
        let (status, body) = service.completion(messages.clone());
        let said = body["choices"][0]["message"]["content"].as_str();
        let said = said.unwrap_or_default();
        assert_eq!(status, 200, "{messages}: {body}");
        assert!(
            said.starts_with("There is no X-ray in this conversation"),
            "{messages}: {said}"
        );
        assert!(
            said.ends_with("Send a PNG or JPEG image with the question."),
            "{said}"
        );
        assert_eq!(body["choices"][0]["finish_reason"], "stop");
    }
    // A greeting before an image is one.
    let image = fs::read(Path::new(XRAYS).join("2cd63b76.jpg")).unwrap();
    let shown = format!("data:image/jpeg;base64,{}", base64(&image));
    let shown =
        json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": shown}}]});
    let (status, body) = service.completion(json!([greeting, shown]));
    let said = body["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!(status, 200);
    assert!(!said.contains("no X-ray in this conversation"), "{said}");
    assert_eq!(said, said.trim_start(), "no white space in front");
}

#[test]
fn openais_answers_tell_of_a_picture_that_is_no_chest_xray() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start(dir.path(), &dir.path().join("objects"));
    let post = |what: &str, body: Value| {
        let body = body.to_string();
        service.ask_with_head(what, "application/json", body.as_bytes())
    };
    let warning = "radialog-warning: this does not look like a frontal chest x-ray";
    let tells = |head: &str| head.to_lowercase().contains(warning);
    for (picture, kind, is_told) in [
        ("../other-images/red-square.png", "png", true),
        ("00001300_000.jpg", "jpeg", false),
    ] {
        let bytes = fs::read(Path::new(XRAYS).join(picture)).unwrap();
        let url = format!("data:image/{kind};base64,{}", base64(&bytes));
        let shown = json!([{"type": "image_url", "image_url": {"url": url}}]);
        let (status, head, body) = post(
            "POST /v1/chat/completions",
            json!({"model": "radialog", "max_tokens": 5, "messages": [{"role": "user", "content": shown}]}),
        );
        assert_eq!((status, tells(&head)), (200, is_told), "{head}\n{body}");
        let shown = json!([{"type": "input_image", "image_url": url}]);
        let (status, head, body) = post(
            "POST /v1/responses",
            json!({"model": "radialog", "max_output_tokens": 16, "input": [{"role": "user", "content": shown}]}),
        );
        assert_eq!((status, tells(&head)), (200, is_told), "{head}\n{body}");
        let kept = format!("GET /v1/responses/{}", body["id"].as_str().unwrap());
        let (status, head, body) = service.ask_with_head(&kept, "application/json", b"");
        assert_eq!((status, tells(&head)), (200, is_told), "{head}\n{body}");
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// A file system of a megabyte, where one can be mounted.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        fs::create_dir(at).unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(at);
        let mounted = mount.stderr(Stdio::null()).status();
        match mounted.is_ok_and(|status| status.success()) {
            true => Some(Self(at.to_owned())),
            false => {
                eprintln!("skipped: no small file system can be mounted here");
                None
            }
        }
    }

    /// Takes all room.
    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("fill")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.0.join("fill")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[test]
fn a_full_disk_is_named_and_the_service_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&dir.path().join("disk")) else {
        return;
    };
    let objects = disk.0.join("objects");
    let service = Service::start(dir.path(), &objects);
    disk.fill();
    let (status, body) = service.upload("2cd63b76.jpg");
    assert_eq!(status, 503, "{body}");
    let detail = body["detail"].as_str().unwrap();
    assert!(
        detail.contains("no room") && !detail.contains("disk/objects"),
        "{detail}"
    );
    let log = service.log();
    let named = objects.display().to_string();
    assert!(
        log.contains(&named) && log.contains("Free some space"),
        "{log}"
    );

    disk.free();
    let (status, body) = service.upload("2cd63b76.jpg");
    assert_eq!(status, 202, "{body}");
    let path = format!("GET /v1/conversations/{}", body["id"].as_str().unwrap());
    until("there is no report", || {
        let (_, view) = service.ask(&path, "text/plain", b"");
        view["turns"][0]["status"] == "done"
    });
}

#[test]
fn without_a_home_the_demo_is_unpacked_for_the_process_alone() {
    let temporary = tempfile::tempdir().unwrap();
    let image = format!("{XRAYS}/2cd63b76.jpg");
    for home in [None, Some("/proc/nowhere")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_radialog"));
        command.args(["report", &image, "--max-new-tokens", "4"]);
        for name in ["HOME", "XDG_CACHE_HOME", "RADIALOG_CACHE"] {
            command.env_remove(name);
        }
        command.envs(home.map(|home| ("HOME", home)));
        let output = command
            .env("TMPDIR", temporary.path())
            .output_in_time()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let said = text(&output.stderr);
        assert!(
            said.contains("RADIALOG_CACHE") && said.contains("removed at the end"),
            "{said}"
        );
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    }
}
