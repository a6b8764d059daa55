//! Settings that are wrong, as an operator meets them: each role ends with one line that names the setting, and the exit code
//! of the table in `k8s/README.md`.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use futures::future::join_all;
use radialog_models::bundle::RandomBundle;
use radialog_schemas::RunId;
use radialog_tests::fixtures::xrays;
use radialog_tests::patience::InTime;
use radialog_tests::processes::radialog;
use radialog_tests::services::{Broker, Environment, READER, Redis, Services, free_port};
use radialog_tests::small_disk::SmallDisk;

use crate::adapters;

/// Longer than any test may take: what is refused is not waited for.
const NEVER: &str = "3600";
/// The longest that a process takes to say what is wrong, beside others that take the processor.
const LIMIT: Duration = Duration::from_secs(120);

/// One wrong setting, and words that the line has.
struct Wrong {
    setting: (&'static str, String),
    says: Vec<&'static str>,
}

fn wrong(name: &'static str, value: impl Into<String>, says: &[&'static str]) -> Wrong {
    Wrong {
        setting: (name, value.into()),
        says: says.to_vec(),
    }
}

/// Settings with which roles work. Redis has a user that may only read.
struct Deployment {
    amqp: String,
    bucket: String,
    redis: Redis,
    dir: tempfile::TempDir,
}

impl Deployment {
    async fn new() -> Self {
        let services = Services::shared().await.unwrap();
        let redis = Redis::start().await.unwrap();
        let reader = format!("ACL SETUSER {READER} on >{READER} ~* &* +@all -@write");
        redis.ask(&reader).await.unwrap();
        Self {
            amqp: services.amqp().unwrap(),
            bucket: services.s3().bucket().unwrap(),
            redis,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// The address of Redis as somebody with this password.
    fn reader(&self, password: &str) -> String {
        let user = format!("redis://{READER}:{password}@");
        self.redis.url().replace("redis://", &user)
    }

    /// Runs a role with this setting to its end, which must be soon.
    async fn run(&self, role: &[&str], setting: &(&'static str, String), timeout: &str) -> Output {
        let environment = Environment::services(&self.amqp, self.redis.url()).bucket(&self.bucket);
        let mut command = radialog(role).unwrap();
        command
            .envs(environment.variables())
            .env("RADIALOG_START_TIMEOUT", timeout)
            .env(setting.0, &setting.1)
            // Without a broker there is no shared state either.
            .envs(setting.1.is_empty().then_some(("RADIALOG_REDIS_URL", "")))
            .current_dir(self.dir.path())
            .stdin(std::process::Stdio::null());
        let mut command = tokio::process::Command::from(command);
        command.kill_on_drop(true);
        let output = tokio::time::timeout(LIMIT, command.output()).await;
        output
            .unwrap_or_else(|_| panic!("{role:?} waits with {}={}", setting.0, setting.1))
            .unwrap()
    }

    async fn assert_refused(&self, role: &[&str], wrong: &Wrong, timeout: &str) {
        let output = self.run(role, &wrong.setting, timeout).await;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let what = format!(
            "{role:?} with {}={}: {text}",
            wrong.setting.0, wrong.setting.1
        );
        assert_eq!(output.status.code(), Some(1), "{what}");
        let errors: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("error: "))
            .collect();
        assert_eq!(errors.len(), 1, "{what}");
        for words in &wrong.says {
            assert!(errors[0].contains(words), "{words} in {what}");
        }
    }
}

/// The address of a bucket in which these operations are refused.
async fn restricted(operations: &[&'static str]) -> String {
    let s3 = Services::shared().await.unwrap().s3();
    let bucket = s3.bucket().unwrap();
    s3.refuse(&bucket, operations);
    bucket
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_says_at_once_which_setting_is_refused() {
    let deployment = Deployment::new().await;
    let wrongs = [
        wrong(
            "RADIALOG_AMQP_URL",
            deployment.amqp.replace("guest:guest", "guest:wrong"),
            &[
                "Login was refused",
                "user and password in --amqp",
                "RADIALOG_AMQP_URL",
            ],
        ),
        wrong(
            "RADIALOG_REDIS_URL",
            deployment.reader("wrong"),
            &["user or password is refused", "RADIALOG_REDIS_URL"],
        ),
        // The broker's place where Redis's should be.
        wrong(
            "RADIALOG_REDIS_URL",
            deployment
                .amqp
                .replace("amqp://guest:guest@", "redis://")
                .rsplit_once('/')
                .unwrap()
                .0,
            &["is no Redis", "RADIALOG_REDIS_URL"],
        ),
        wrong(
            "RADIALOG_S3_URL",
            restricted(&["PutObject", "DeleteObject"]).await,
            &[
                "may not write, delete objects",
                "AWS_ACCESS_KEY_ID",
                "RADIALOG_S3_URL",
            ],
        ),
    ];
    let archive = xrays().display().to_string();
    let roles: [&[&str]; 4] = [
        &["coordinator"],
        &["worker", "scoring"],
        &["gateway", "--listen", "127.0.0.1:0"],
        &["batch", &archive, "--out", "out"],
    ];
    for wrong in &wrongs {
        let all = roles.map(|role| deployment.assert_refused(role, wrong, NEVER));
        join_all(all).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_service_refuses_is_told_with_its_setting() {
    let deployment = Deployment::new().await;
    let (host, _) = deployment.amqp.rsplit_once('/').unwrap();
    let reader = host.replace("guest:guest", &format!("{READER}:{READER}"));
    let secret = "RADIALOG_S3_SECRET_ACCESS_KEY";
    let wrongs = [
        wrong(
            "RADIALOG_AMQP_URL",
            format!("{host}/nowhere"),
            &[
                "vhost nowhere not found",
                "create the virtual host",
                "--amqp",
            ],
        ),
        wrong(
            "RADIALOG_AMQP_URL",
            deployment
                .amqp
                .replace("guest:guest", &format!("{READER}:{READER}")),
            &["access to vhost", "give the user its rights", "--amqp"],
        ),
        wrong(
            "RADIALOG_AMQP_URL",
            format!("{reader}/%2f"),
            &["access to queue", "set_permissions", "--amqp"],
        ),
        wrong(
            "RADIALOG_REDIS_URL",
            deployment.reader(READER),
            &["no permissions", "ACL SETUSER", "--redis"],
        ),
        wrong(
            secret,
            "wrong",
            &["refuses this key", "AWS_SECRET_ACCESS_KEY"],
        ),
        wrong(
            "RADIALOG_S3_URL",
            format!("{}-missing", deployment.bucket),
            &["there is no bucket", "-missing", "--s3"],
        ),
        wrong(
            "RADIALOG_S3_URL",
            restricted(&["GetObject"]).await,
            &["may not read objects", "AWS_ACCESS_KEY_ID", "--s3"],
        ),
    ];
    let role: &[&str] = &["coordinator"];
    let all = wrongs
        .iter()
        .map(|wrong| deployment.assert_refused(role, wrong, NEVER));
    join_all(all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_cannot_keep_batches_says_so_before_the_first_one_comes() {
    let deployment = Deployment::new().await;
    let unwritable = wrong(
        "RADIALOG_GATEWAY_DIRECTORY",
        // Where root, too, can make no folder.
        "/proc/radialog",
        &["/proc/radialog", "gateway.directory"],
    );
    let archives = deployment.dir.path().join("radialog.toml");
    std::fs::write(&archives, "gateway.archives = [\"s3://archive\"]").unwrap();
    let gateway = [
        "gateway",
        "--listen",
        "127.0.0.1:0",
        "--config",
        "radialog.toml",
    ];
    deployment
        .assert_refused(&gateway, &unwritable, NEVER)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_that_a_broker_with_an_alarm_takes_no_messages() {
    // More than any disk has.
    let settings = "disk_free_limit.absolute = 1000000GB\n";
    let broker = Broker::start_with(1, settings, "").await.unwrap();
    let mut doctor = radialog(&["doctor"]).unwrap();
    let doctor = doctor
        .env("RADIALOG_AMQP_URL", broker.virtual_host().unwrap())
        .env("RADIALOG_AMQP_PUBLISH_TIMEOUT", "1");
    let output = tokio::task::block_in_place(|| doctor.output_in_time()).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let line = text.lines().find(|line| line.starts_with("FAIL  broker"));
    let line = line.unwrap_or_else(|| panic!("{text}"));
    assert!(
        line.contains("alarm") && line.contains("disk_free_limit"),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_at_which_nobody_is_is_named_once_the_start_has_waited() {
    let deployment = Deployment::new().await;
    let port = free_port().unwrap();
    let (host, nobody) = (
        format!("nowhere.invalid:{port}"),
        format!("127.0.0.1:{port}"),
    );
    let wrongs: Vec<Wrong> = [host, nobody]
        .iter()
        .flat_map(|place| {
            let settings = [
                ("RADIALOG_AMQP_URL", format!("amqp://{place}/%2f")),
                ("RADIALOG_REDIS_URL", format!("redis://{place}/0")),
                ("RADIALOG_S3_URL", format!("http://{place}/bucket")),
            ];
            settings.map(|setting| (place.clone(), setting))
        })
        .map(|(place, (name, address))| Wrong {
            setting: (name, address),
            says: vec![place.leak(), name],
        })
        .collect();
    let role: &[&str] = &["coordinator"];
    let all = wrongs
        .iter()
        .map(|wrong| deployment.assert_refused(role, wrong, "1"));
    join_all(all).await;
}

/// A folder without room; none where no such one can be made.
#[expect(
    clippy::print_stderr,
    reason = "what is not tested here is not passed over"
)]
fn without_room(folder: &Path) -> Option<SmallDisk> {
    let disk = SmallDisk::mount(folder, "size=256k").unwrap();
    match &disk {
        Some(disk) => disk.fill().unwrap(),
        None => eprintln!("not tested: no small file system can be mounted here"),
    }
    disk
}

#[test]
fn a_run_without_room_ends_with_one_line_that_names_the_place_and_its_setting() {
    let dir = tempfile::tempdir().unwrap();
    let full = dir.path().join("full");
    let Some(_disk) = without_room(&full) else {
        return;
    };
    let (archive, full) = (xrays().display().to_string(), full.display().to_string());
    let out = format!("{full}/out");
    let cases: [(&[&str], &[&str]); 2] = [
        (&["--out", &out], &["--out"]),
        (
            &["--out", "out", "--objects", &full],
            &[
                "Free some space there",
                "by the same command",
                "--objects, RADIALOG_OBJECTS_DIRECTORY",
                "begins with nothing stored",
            ],
        ),
    ];
    for (places, says) in cases {
        let batch = [&["batch", &archive], places].concat();
        let mut command = radialog(&batch).unwrap();
        let output = command.current_dir(dir.path()).output_in_time().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        let errors = text.lines().filter(|line| line.starts_with("error: "));
        let errors: Vec<&str> = errors.collect();
        assert_eq!(errors.len(), 1, "{text}");
        for words in [&[full.as_str()], says].concat() {
            assert!(errors[0].contains(words), "{words}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_without_room_is_named_once_the_start_has_waited() {
    let deployment = Deployment::new().await;
    let limit = deployment.redis.ask("CONFIG SET maxmemory 1").await;
    limit.unwrap();
    let full = wrong(
        "RADIALOG_REDIS_URL",
        deployment.redis.url(),
        &["no room left", "maxmemory", "RADIALOG_REDIS_URL"],
    );
    deployment
        .assert_refused(&["coordinator"], &full, "30")
        .await;
}

#[tokio::test]
async fn a_redis_that_runs_out_of_room_is_told_so_by_whoever_writes() {
    let redis = Redis::start().await.unwrap();
    let state = adapters::redis_at(redis.url()).await;
    redis.ask("CONFIG SET maxmemory 1").await.unwrap();
    let run = RunId("run".to_owned());
    let written = state.put_document(&run, "spec", "{}".to_owned()).await;
    let refused = written.unwrap_err().to_string();
    for words in ["no room left", "maxmemory", "RADIALOG_REDIS_URL"] {
        assert!(refused.contains(words), "{words}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_or_a_bundle_that_may_not_be_read_is_told_with_its_place_and_the_key() {
    let deployment = Deployment::new().await;
    let place = async |operation: &'static str| {
        let bucket = restricted(&[operation]).await;
        let (_, name) = bucket.rsplit_once('/').unwrap();
        format!("s3://{name}/place")
    };
    let archive = place("ListObjectsV2").await;
    // Everything but the store is in this process.
    let mut unlisted = wrong("RADIALOG_AMQP_URL", "", &["AWS_ACCESS_KEY_ID", "to list"]);
    unlisted.says.push(archive.clone().leak());
    let batch: &[&str] = &["batch", &archive, "--out", "out"];
    deployment.assert_refused(batch, &unlisted, NEVER).await;
    let bundle = place("GetObject").await;
    let mut unread = wrong("RADIALOG_BUNDLE", &bundle, &["AWS_ACCESS_KEY_ID"]);
    unread.says.push(bundle.clone().leak());
    deployment
        .assert_refused(&["worker", "scoring"], &unread, NEVER)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_without_room_for_the_weights_is_named_with_its_setting() {
    let deployment = Deployment::new().await;
    let cache = deployment.dir.path().join("cache");
    let Some(_disk) = without_room(&cache) else {
        return;
    };
    // As an upload leaves it.
    let store = Services::shared().await.unwrap().s3();
    let folder = store.folder(&deployment.bucket).join("tiny");
    RandomBundle::tiny(7).write(&folder).unwrap();
    let (_, bucket) = deployment.bucket.rsplit_once('/').unwrap();
    let bundle = format!("s3://{bucket}/tiny");
    let full = wrong(
        "RADIALOG_CACHE",
        cache.display().to_string(),
        &["in the bundle cache", "No space left", "set RADIALOG_CACHE"],
    );
    let worker = ["worker", "scoring", "--bundle", &bundle];
    deployment.assert_refused(&worker, &full, NEVER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_not_there_is_told_with_the_address_that_names_it() {
    let deployment = Deployment::new().await;
    let bundle = "s3://nowhere/radialog-v1";
    let wrong_bundle = wrong(
        "RADIALOG_BUNDLE",
        bundle,
        &["there is no bucket 'nowhere'", bundle],
    );
    let worker: &[&str] = &["worker", "scoring"];
    deployment
        .assert_refused(worker, &wrong_bundle, NEVER)
        .await;
    let archive = xrays().display().to_string();
    let out = "s3://nowhere/results";
    let embedded = wrong(
        "RADIALOG_AMQP_URL",
        "",
        &["there is no bucket 'nowhere'", out],
    );
    let batch: &[&str] = &["batch", &archive, "--out", out];
    deployment.assert_refused(batch, &embedded, NEVER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_may_not_be_written_are_told_and_the_archive_is_as_it_was() {
    let deployment = Deployment::new().await;
    let bucket = restricted(&["PutObject"]).await;
    let (_, name) = bucket.rsplit_once('/').unwrap();
    let (archive, out) = (
        xrays().display().to_string(),
        format!("s3://{name}/results"),
    );
    let batch: &[&str] = &["batch", &archive, "--out", &out];
    // Everything but the store is in this process.
    let embedded = wrong(
        "RADIALOG_AMQP_URL",
        "",
        &["AccessDenied", "AWS_ACCESS_KEY_ID"],
    );
    deployment.assert_refused(batch, &embedded, NEVER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_key_or_its_secret_is_missing_is_told_with_their_names() {
    let deployment = Deployment::new().await;
    let store = Environment::services(&deployment.amqp, deployment.redis.url())
        .with("RADIALOG_S3_URL", &deployment.bucket);
    // The store refuses who has no key; half a key is a mistake.
    for (key, code) in [("", 1), ("somebody", 64)] {
        let mut command = radialog(&["coordinator"]).unwrap();
        command
            .envs(store.variables())
            .env("RADIALOG_START_TIMEOUT", NEVER)
            .env("AWS_ACCESS_KEY_ID", key)
            .env("AWS_SECRET_ACCESS_KEY", "")
            .current_dir(deployment.dir.path());
        let mut command = tokio::process::Command::from(command);
        command.kill_on_drop(true);
        let output = tokio::time::timeout(LIMIT, command.output()).await;
        let output = output.unwrap_or_else(|_| panic!("it waits")).unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{text}");
        let errors = text.lines().filter(|line| line.starts_with("error: "));
        let errors: Vec<&str> = errors.collect();
        assert_eq!(errors.len(), 1, "{text}");
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            assert!(errors[0].contains(name), "{name}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_what_it_shares_names_the_settings_that_are_missing() {
    let amqp = ["--amqp", "amqp://127.0.0.1:1/%2f"];
    let archive = xrays().display().to_string();
    let redis = ["--redis", "redis://127.0.0.1:1"];
    let all = &["RADIALOG_AMQP_URL", "RADIALOG_REDIS_URL", "RADIALOG_S3_URL"];
    let cases: [(Vec<&str>, &[&str]); 7] = [
        (vec!["worker", "language"], all),
        (vec!["coordinator"], all),
        (vec!["gateway"], all),
        (
            [&["worker", "scoring"][..], &amqp].concat(),
            &["RADIALOG_S3_URL", "--objects"],
        ),
        (
            [&["worker", "language"][..], &amqp].concat(),
            &["RADIALOG_S3_URL", "RADIALOG_REDIS_URL"],
        ),
        ([&["coordinator"][..], &amqp, &redis].concat(), &["--s3"]),
        (
            [&["batch", &archive, "--out", "out"][..], &amqp, &redis].concat(),
            &["RADIALOG_S3_URL", "--objects"],
        ),
    ];
    for (role, says) in cases {
        let dir = tempfile::tempdir().unwrap();
        let output = radialog(&role)
            .unwrap()
            .current_dir(dir.path())
            .output_in_time()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{role:?}: {text}");
        for words in says {
            assert!(text.contains(words), "{words} for {role:?}: {text}");
        }
    }
}
