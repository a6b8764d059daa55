//! A headless Chromium that is driven as a person would. One chromedriver serves all tests; each test has a browser of its
//! own, one at a time: two at once on a small machine make each other's waits too long.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fantoccini::wd::Capabilities;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use radialog_runtime::local_services::{LocalProcess, until_ready};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use super::{free_port, runtime};
use crate::install::{self, Requirement};
use crate::waiting;

/// Names a running driver.
const VARIABLE: &str = "RADIALOG_TEST_WEBDRIVER";
/// What is installed where the variable names nothing.
const REQUIREMENT: Requirement<'_> = Requirement {
    name: "Chromium with its driver",
    purpose: "tests of the page in a browser",
    source: "the Debian package chromium-driver",
    variable: VARIABLE,
    value: "the address of a running driver, e.g. http://host:9515",
};
/// The time that the page may take for anything that a test waits for.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The window and the preferences with which a page is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// The width in CSS pixels.
    pub width: u32,
    /// The height in CSS pixels.
    pub height: u32,
    /// What the system prefers.
    pub dark: bool,
    /// True for fingers instead of a mouse.
    pub touch: bool,
}

impl Screen {
    /// A desktop.
    pub const DESKTOP: Screen = Screen {
        width: 1440,
        height: 900,
        dark: false,
        touch: false,
    };
    /// A phone.
    pub const PHONE: Screen = Screen {
        width: 390,
        height: 844,
        dark: false,
        touch: true,
    };

    /// The same screen of somebody who prefers dark pages.
    pub fn dark(self) -> Self {
        Self { dark: true, ..self }
    }
}

/// An open browser. Close it at the end: what a test leaves open ends with the test binary only.
pub struct Browser {
    page: Client,
    /// Address of the session at the driver.
    session: String,
    http: reqwest::Client,
    _turn: MutexGuard<'static, ()>,
}

struct Driver {
    url: String,
    _own: Option<(LocalProcess, TempDir)>,
}

impl Driver {
    async fn shared() -> Result<&'static Driver> {
        static SHARED: OnceCell<Driver> = OnceCell::const_new();
        SHARED
            .get_or_try_init(|| async { runtime().spawn(Self::start()).await? })
            .await
    }

    async fn start() -> Result<Self> {
        if let Ok(url) = std::env::var(VARIABLE) {
            return Ok(Self { url, _own: None });
        }
        // The package brings the browser that fits.
        let program = install::program(&["chromedriver"], "chromium-driver", &REQUIREMENT)?;
        let (directory, port) = (tempfile::tempdir()?, free_port()?);
        let mut command = Command::new(program);
        command.arg(format!("--port={port}"));
        // Profiles and sockets of the browsers go away with the folder.
        command.env("TMPDIR", directory.path());
        let process = LocalProcess::start(&command, &directory.path().join("output"))?;
        until_ready("chromedriver", || async move {
            TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await?;
        Ok(Self {
            url: format!("http://127.0.0.1:{port}"),
            _own: Some((process, directory)),
        })
    }
}

impl Browser {
    /// Opens a browser that looks so.
    ///
    /// # Errors
    /// Where Chromium cannot be installed or started.
    pub async fn open(screen: Screen) -> Result<Self> {
        static ONE: Mutex<()> = Mutex::const_new(());
        let turn = ONE.lock().await;
        let driver = Driver::shared().await?;
        // fantoccini brings no connector of its own without TLS, which a driver on this machine does not have.
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let page = builder
            .capabilities(capabilities())
            .connect(&driver.url)
            .await
            .context("Chromium does not start")?;
        let id = page
            .session_id()
            .await?
            .context("the driver gave no session")?;
        let session = format!("{}/session/{id}", driver.url);
        let browser = Self {
            page,
            session,
            http: waiting::client(),
            _turn: turn,
        };
        browser.look(screen).await?;
        Ok(browser)
    }

    /// Changes how the page is looked at.
    ///
    /// # Errors
    /// When the browser is gone, as in all that follows.
    pub async fn look(&self, screen: Screen) -> Result<()> {
        let Screen {
            width,
            height,
            dark,
            touch,
        } = screen;
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch});
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)
            .await?;
        self.devtools(
            "Emulation.setTouchEmulationEnabled",
            json!({"enabled": touch}),
        )
        .await?;
        let scheme = if dark { "dark" } else { "light" };
        let features = json!({"media": "", "features": [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]});
        self.devtools("Emulation.setEmulatedMedia", features)
            .await?;
        Ok(())
    }

    /// Looks at the page as a printer does (`print`), or with colours of the reader's own (`forced-colors`), until the next
    /// [`Browser::look`].
    ///
    /// # Errors
    /// When the browser is gone.
    pub async fn emulate(&self, media: &str, features: &[(&str, &str)]) -> Result<()> {
        let features: Vec<Value> = features
            .iter()
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect();
        let settings = json!({"media": media, "features": features});
        self.devtools("Emulation.setEmulatedMedia", settings)
            .await?;
        Ok(())
    }

    /// Goes to an address.
    ///
    /// # Errors
    /// Where nothing answers.
    pub async fn go(&self, url: &str) -> Result<()> {
        Ok(self.page.goto(url).await?)
    }

    /// Loads the page again.
    ///
    /// # Errors
    /// As [`Browser::go`].
    pub async fn reload(&self) -> Result<()> {
        Ok(self.page.refresh().await?)
    }

    /// The value of a JavaScript expression.
    ///
    /// # Errors
    /// Where it throws.
    pub async fn value(&self, expression: &str) -> Result<Value> {
        let script = format!("return ({expression})");
        self.page
            .execute(&script, Vec::new())
            .await
            .with_context(|| format!("in the page: {expression}"))
    }

    /// Waits until a JavaScript expression is true.
    ///
    /// # Errors
    /// Where it stays false; tells what the page shows.
    pub async fn until(&self, expression: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            if self.value(&format!("Boolean({expression})")).await? == true {
                return Ok(());
            }
            if begun.elapsed() > TIMEOUT {
                let shown = self.value("document.body.innerText").await?;
                let complaints = self.complaints().await?;
                bail!(
                    "after {TIMEOUT:?} still not: {expression}\nthe page shows: {shown}\nthe console: {complaints:?}"
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Clicks what a CSS selector finds first, once it is there.
    ///
    /// # Errors
    /// Where it is not there or cannot be clicked, e.g. since something lies over it.
    pub async fn click(&self, selector: &str) -> Result<()> {
        self.until(&format!(
            "document.querySelector({})?.checkVisibility()",
            json!(selector)
        ))
        .await?;
        let element = self.page.find(Locator::Css(selector)).await?;
        element
            .click()
            .await
            .with_context(|| format!("cannot click {selector}"))
    }

    /// Types into what a CSS selector finds first. A file input takes the path of a file.
    ///
    /// # Errors
    /// Where it is not there or takes no text.
    pub async fn type_into(&self, selector: &str, text: &str) -> Result<()> {
        let element = self.page.find(Locator::Css(selector)).await?;
        element
            .send_keys(text)
            .await
            .with_context(|| format!("cannot type into {selector}"))
    }

    /// Types to whatever has the focus.
    ///
    /// # Errors
    /// Where nothing has it.
    pub async fn type_keys(&self, text: &str) -> Result<()> {
        Ok(self.page.active_element().await?.send_keys(text).await?)
    }

    /// The text that a CSS selector's first find shows; empty where there is none.
    ///
    /// # Errors
    /// When the browser is gone.
    pub async fn text(&self, selector: &str) -> Result<String> {
        let text = self
            .value(&format!(
                "document.querySelector({})?.innerText ?? ''",
                json!(selector)
            ))
            .await?;
        Ok(text.as_str().unwrap_or_default().trim().to_owned())
    }

    /// What the console says since the last call: errors, refused resources, violations of the security policy.
    ///
    /// # Errors
    /// When the browser is gone.
    pub async fn complaints(&self) -> Result<Vec<String>> {
        let entries = self.log("browser").await?;
        Ok(entries
            .iter()
            .map(|entry| format!("{}: {}", entry["level"], entry["message"]))
            .collect())
    }

    /// The addresses that the page asked for since the last call.
    ///
    /// # Errors
    /// When the browser is gone.
    pub async fn requests(&self) -> Result<Vec<String>> {
        let mut requests = Vec::new();
        for entry in self.log("performance").await? {
            let event: Value = serde_json::from_str(entry["message"].as_str().unwrap_or("{}"))?;
            if event["message"]["method"] == "Network.requestWillBeSent" {
                let url = &event["message"]["params"]["request"]["url"];
                requests.push(
                    url.as_str()
                        .context("a request without an address")?
                        .to_owned(),
                );
            }
        }
        Ok(requests)
    }

    /// Keeps a picture of the page in the target folder, for people.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub async fn picture(&self, name: &str) -> Result<PathBuf> {
        let program = std::env::current_exe()?;
        let folder = program
            .ancestors()
            .nth(3)
            .context("a test lies in target/PROFILE/deps")?
            .join("screenshots");
        std::fs::create_dir_all(&folder)?;
        let file = folder.join(format!("{name}.png"));
        std::fs::write(&file, self.page.screenshot().await?)?;
        Ok(file)
    }

    /// Ends the browser.
    ///
    /// # Errors
    /// When it is gone already.
    pub async fn close(self) -> Result<()> {
        Ok(self.page.close().await?)
    }

    async fn log(&self, kind: &str) -> Result<Vec<Value>> {
        let entries = self.command("se/log", &json!({"type": kind})).await?;
        serde_json::from_value(entries).context("a log is a list")
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Result<Value> {
        self.command(
            "goog/cdp/execute",
            &json!({"cmd": command, "params": parameters}),
        )
        .await
    }

    /// A command that only Chromium's driver knows.
    async fn command(&self, path: &str, body: &Value) -> Result<Value> {
        let answer = self
            .http
            .post(format!("{}/{path}", self.session))
            .json(body)
            .send()
            .await?;
        let status = answer.status();
        let mut answer: Value = answer.json().await?;
        ensure!(
            status.is_success(),
            "{path}: {}",
            answer["value"]["message"]
        );
        Ok(answer["value"].take())
    }
}

fn capabilities() -> Capabilities {
    let arguments = [
        "--headless=new",
        // Its sandbox does not work as root, which tests in containers are.
        "--no-sandbox",
        "--disable-gpu",
        // Containers have a small /dev/shm.
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--no-first-run",
        "--hide-scrollbars",
    ];
    let mut capabilities = Capabilities::new();
    capabilities.insert("browserName".to_owned(), json!("chrome"));
    capabilities.insert("goog:chromeOptions".to_owned(), json!({"args": arguments}));
    capabilities.insert(
        "goog:loggingPrefs".to_owned(),
        json!({"browser": "ALL", "performance": "ALL"}),
    );
    // Leaving a page with unsent words asks; a test means it.
    capabilities.insert("unhandledPromptBehavior".to_owned(), json!("accept"));
    capabilities
}
