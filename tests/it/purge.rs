//! What is left of conversations when a process ends, and `radialog purge`, as an operator has them.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, ensure};
use radialog_runtime::objects::Objects;
use radialog_runtime::objects::filesystem::FilesystemObjects;
use radialog_schemas::{ChatImage, ContentHash, Conversation, ConversationId, ObjectKey, counted};
use radialog_tests::fixtures::xray;
use radialog_tests::processes::{ProcessCluster, RoleProcess};
use radialog_tests::services::{Environment, Redis, Services, free_port};
use radialog_tests::waiting;
use reqwest::multipart::{Form, Part};
use tempfile::TempDir;

use crate::adapters;

const PATIENCE: Duration = Duration::from_secs(180);

/// A folder of objects, and the program.
struct StoreFixture {
    dir: TempDir,
    cluster: ProcessCluster,
}

impl StoreFixture {
    fn new(environment: Environment) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let objects = dir.path().join("objects");
        std::fs::create_dir(&objects)?;
        let environment = environment.objects(&objects);
        Ok(Self {
            dir,
            cluster: ProcessCluster::new(environment)?,
        })
    }

    fn objects(&self) -> Result<FilesystemObjects> {
        Ok(FilesystemObjects::open(self.dir.path().join("objects"))?)
    }

    /// The keys of all objects of conversations.
    async fn stored(&self) -> Result<Vec<String>> {
        let page = self
            .objects()?
            .list(ObjectKey::CONVERSATIONS, None, 1000)
            .await?;
        Ok(page
            .entries
            .into_iter()
            .map(|entry| entry.key.to_string())
            .collect())
    }

    /// Makes all objects two hours old.
    fn make_old(&self) -> Result<()> {
        self.make_older(Duration::from_secs(7200))
    }

    fn make_older(&self, age: Duration) -> Result<()> {
        fn visit(folder: &Path, age: Duration) -> Result<()> {
            for entry in std::fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    visit(&path, age)?;
                } else {
                    let file = std::fs::File::options().write(true).open(&path)?;
                    file.set_modified(SystemTime::now() - age)?;
                }
            }
            Ok(())
        }
        visit(&self.dir.path().join("objects"), age)
    }

    /// What a command that must work prints.
    fn says(&self, arguments: &[&str]) -> Result<String> {
        let output = self.cluster.run(arguments)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{arguments:?}: {errors}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Waits until the process with this health address has a line among its metrics.
    async fn until_counted(&self, health: &str, line: &str) -> Result<()> {
        let metrics = format!("http://{health}/metrics");
        let is_counted = || async {
            self.cluster.check()?;
            let Ok(answer) = waiting::client().get(&metrics).send().await else {
                return Ok(false);
            };
            let text = answer.text().await?;
            Ok(text.lines().any(|counted| counted == line))
        };
        waiting::until(line, PATIENCE, is_counted).await
    }

    /// A `radialog serve` in which somebody talks about an image.
    async fn serve(&self) -> Result<RoleProcess> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let serving = self.cluster.start(&["serve", "--listen", &address])?;
        let began = Instant::now();
        loop {
            let image = Part::bytes(std::fs::read(xray("00001300_000.jpg"))?).file_name("xray");
            let asking = waiting::client()
                .post(format!("http://{address}/v1/conversations"))
                .multipart(Form::new().part("image", image));
            match asking.send().await {
                Ok(response) if response.status() == 202 => return Ok(serving),
                Err(_) if self.cluster.check().is_err() => self.cluster.check()?,
                answer => ensure!(
                    began.elapsed() < PATIENCE,
                    "{answer:?}\n{}",
                    self.cluster.log("serve")
                ),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test]
async fn images_end_with_the_process_that_has_their_conversations_in_memory() -> Result<()> {
    let fixture = StoreFixture::new(Environment::default())?;
    let mut serving = fixture.serve().await?;
    ensure!(!fixture.stored().await?.is_empty(), "the image is stored");
    let pid = serving.0.id().to_string();
    Command::new("kill").args(["-TERM", &pid]).status()?;
    let ended = serving.ended()?;
    ensure!(ended.success(), "{}", fixture.cluster.log("serve"));
    assert_eq!(fixture.stored().await?, [""; 0]);

    let mut serving = fixture.serve().await?;
    serving.kill();
    let left = fixture.stored().await?.len();
    ensure!(left > 0, "a killed process cannot clean up");
    // Another one may have it, as far as anybody knows, until the grace is over.
    fixture.says(&["purge"])?;
    assert_eq!(fixture.stored().await?.len(), left);
    fixture.make_old()?;
    let said = fixture.says(&["purge", "--dry-run"])?;
    ensure!(said.contains(&counted(left, "object", "objects")), "{said}");
    assert_eq!(fixture.stored().await?.len(), left);
    fixture.says(&["purge"])?;
    assert_eq!(fixture.stored().await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_coordinator_counts_and_removes_what_nobody_owns() -> Result<()> {
    let amqp = Services::shared().await?.amqp()?;
    let redis = Redis::start().await?;
    let fixture = StoreFixture::new(Environment::services(amqp, redis.url()))?;
    let objects = fixture.objects()?;
    let hash = ContentHash::of(b"x");
    let image = |id: &str| ObjectKey::conversation_image(&id.into(), "one", &hash);
    let (old, young) = (image("old"), image("young"));
    for key in [&old, &ObjectKey::embedding(&hash, &old)] {
        objects.put(key, "12345".into()).await?;
    }
    fixture.make_old()?;
    objects.put(&young, "12345".into()).await?;
    let health = format!("127.0.0.1:{}", free_port()?);
    let sweeping = [
        "coordinator",
        "--health-address",
        &health,
        "--retention-grace",
        "3600",
        "--retention-interval",
        "0.2",
    ];
    let looking = [&sweeping[..], &["--retention-dry-run"]].concat();
    let mut coordinator = fixture.cluster.start(&looking)?;
    let unowned = "radialog_retention_unowned_items 2";
    fixture.until_counted(&health, unowned).await?;
    let none = "radialog_retention_removed_total 0";
    fixture.until_counted(&health, none).await?;
    coordinator.kill();
    assert_eq!(fixture.stored().await?.len(), 3, "they were only counted");

    let _coordinator = fixture.cluster.start(&sweeping)?;
    let removed = "radialog_retention_removed_total 2";
    fixture.until_counted(&health, removed).await?;
    let unowned = "radialog_retention_unowned_items 0";
    fixture.until_counted(&health, unowned).await?;
    assert_eq!(fixture.stored().await?, [young.as_str()]);
    Ok(())
}

#[tokio::test]
async fn conversations_are_purged_by_age_and_by_id() -> Result<()> {
    let redis = Redis::start().await?;
    let fixture =
        StoreFixture::new(Environment::default().with("RADIALOG_REDIS_URL", redis.url()))?;
    let objects = fixture.objects()?;
    let conversations = adapters::redis_conversations_at(redis.url()).await;
    let day = Duration::from_secs(24 * 3600);
    let image = |id: &str| ObjectKey::conversation_image(&id.into(), "one", &ContentHash::of(b"x"));
    let correction = |id: &str| ObjectKey::correction(&id.into(), 1);
    for (id, days) in [("old", 40), ("named", 1), ("young", 1)] {
        let created = SystemTime::now() - days * day;
        let since = created.duration_since(SystemTime::UNIX_EPOCH)?;
        let shown = ChatImage {
            image: image(id),
            media_type: "image/png".into(),
            embedding: image(id),
            findings: image(id),
        };
        let conversation = Conversation {
            image: Some(shown),
            ..Conversation::new(
                id.into(),
                &format!("owner of {id}"),
                u64::try_from(since.as_millis())?,
                &ContentHash::of(b"language"),
            )
        };
        conversations.create(&conversation, &[]).await?;
        objects.put(&image(id), "image".into()).await?;
        objects.put(&correction(id), "correction".into()).await?;
    }
    let ids = ["old", "named", "young"];
    let there = async || -> Result<Vec<bool>> {
        let mut there = conversations.exist(&ids.map(ConversationId::from)).await?;
        for id in ids {
            there.push(objects.size(&image(id)).await?.is_some());
            there.push(objects.size(&correction(id)).await?.is_some());
        }
        Ok(there)
    };
    let everything = vec![true; 9];
    let said = fixture.says(&["purge", "--older-than", "30d", "--dry-run"])?;
    ensure!(said.contains("1 conversation would be removed"), "{said}");
    let said = fixture.says(&["purge", "--conversation", "named", "--dry-run"])?;
    ensure!(said.contains("1 object would be removed"), "{said}");
    assert_eq!(there().await?, everything);

    fixture.says(&["purge", "--older-than", "30d"])?;
    let without_old = [false, true, true, false, false, true, true, true, true];
    assert_eq!(there().await?, without_old);
    fixture.says(&["purge", "--conversation", "named"])?;
    let young_alone = [false, false, true, false, false, false, false, true, true];
    assert_eq!(there().await?, young_alone);
    let said = fixture.says(&["purge", "--conversation", "named"])?;
    ensure!(said.contains("no such conversation"), "{said}");
    // What is in use stays, however old its objects are.
    fixture.make_old()?;
    fixture.says(&["purge"])?;
    assert_eq!(there().await?, young_alone);
    let wrong = fixture
        .cluster
        .run(&["purge", "--older-than", "long ago"])?;
    ensure!(!wrong.status.success(), "that is no age");
    Ok(())
}

#[tokio::test]
async fn a_conversation_that_cannot_be_read_keeps_nobody_elses_objects() -> Result<()> {
    let redis = Redis::start().await?;
    let fixture =
        StoreFixture::new(Environment::default().with("RADIALOG_REDIS_URL", redis.url()))?;
    let objects = fixture.objects()?;
    let conversations = adapters::redis_conversations_at(redis.url()).await;
    let ids = ["a", "b", "c"];
    let image = |id: &str, incarnation| {
        ObjectKey::conversation_image(&id.into(), incarnation, &ContentHash::of(b"x"))
    };
    for id in ids {
        let shown = ChatImage {
            image: image(id, "now"),
            media_type: "image/png".into(),
            embedding: image(id, "now"),
            findings: image(id, "now"),
        };
        let conversation = Conversation {
            image: Some(shown),
            ..Conversation::new(id.into(), "owner", 1, &ContentHash::of(b"language"))
        };
        conversations.create(&conversation, &[]).await?;
        for incarnation in ["now", "earlier"] {
            objects.put(&image(id, incarnation), "image".into()).await?;
        }
    }
    let file = ObjectKey::request_file_head(&ContentHash::of(b"ward"), &"a".repeat(32));
    objects.put(&file, "damaged".into()).await?;
    fixture.make_older(Duration::from_secs(31 * 24 * 3600))?;
    let damaging = redis.ask("HSET radialog:chat:{b} conversation {}").await?;
    ensure!(damaging == "0", "there was no such field: {damaging}");
    let there = async |incarnation| -> Result<Vec<bool>> {
        let mut there = Vec::new();
        for id in ids {
            there.push(objects.size(&image(id, incarnation)).await?.is_some());
        }
        Ok(there)
    };
    for arguments in [&["purge", "--dry-run"][..], &["purge"]] {
        assert_eq!(there("earlier").await?, [true; 3], "before {arguments:?}");
        let purged = fixture.cluster.run(arguments)?;
        let (said, errors) = (
            String::from_utf8_lossy(&purged.stdout),
            String::from_utf8_lossy(&purged.stderr),
        );
        ensure!(!purged.status.success(), "{said}");
        ensure!(
            said.contains("2 objects (10 bytes) of 2 conversations"),
            "{said}"
        );
        ensure!(said.contains("1 file of requests"), "{said}");
        ensure!(errors.contains("1 conversation is not swept"), "{errors}");
    }
    assert_eq!(there("earlier").await?, [false, true, false]);
    assert_eq!(there("now").await?, [true; 3]);
    ensure!(objects.size(&file).await?.is_none(), "the file is old");
    fixture.says(&["purge", "--conversation", "b"])?;
    assert_eq!(there("earlier").await?, [false; 3]);
    assert_eq!(there("now").await?, [true, false, true]);
    fixture.says(&["purge"])?;
    Ok(())
}

#[tokio::test]
async fn what_a_killed_process_was_writing_is_purged_when_it_is_old_and_nobody_writes_it()
-> Result<()> {
    let fixture = StoreFixture::new(Environment::default())?;
    let objects = fixture.objects()?;
    objects
        .put(&ObjectKey::text(&ContentHash::of(b"x")), "x".into())
        .await?;
    let writing = fixture.dir.path().join("objects/.writing-files");
    let names = ["left00", "held00", "young0"].map(|name| format!(".writing-{name}"));
    let there = || names.each_ref().map(|name| writing.join(name).exists());
    for name in &names[..2] {
        std::fs::write(writing.join(name), "of a patient")?;
    }
    fixture.make_old()?;
    std::fs::write(writing.join(&names[2]), "of a patient")?;
    let held = std::fs::File::open(writing.join(&names[1]))?;
    held.lock()?;
    fixture.says(&["purge", "--dry-run"])?;
    assert_eq!(there(), [true; 3]);
    fixture.says(&["purge"])?;
    assert_eq!(there(), [false, true, true]);
    Ok(())
}

#[tokio::test]
async fn files_of_requests_are_purged_by_age() -> Result<()> {
    let fixture = StoreFixture::new(Environment::default())?;
    let objects = fixture.objects()?;
    let owner = ContentHash::of(b"ward");
    let name = |digit: &str| digit.repeat(32);
    let put = async |digit: &str| -> Result<()> {
        let part = ObjectKey::request_file_part(&owner, &name(digit), 0, None);
        objects.put(&part, "image".into()).await?;
        let head = ObjectKey::request_file_head(&owner, &name(digit));
        Ok(objects.put(&head, "damaged".into()).await?)
    };
    put("a").await?;
    fixture.make_old()?;
    put("b").await?;
    fixture.says(&["purge"])?;
    let ask = ["purge", "--older-than", "1h", "--dry-run"];
    let said = fixture.says(&ask)?;
    ensure!(
        said.contains("1 file of requests and batches would be"),
        "{said}"
    );
    let left = async || -> Result<usize> {
        let page = objects.list(ObjectKey::REQUEST_FILES, None, 9).await?;
        Ok(page.entries.len())
    };
    assert_eq!(left().await?, 4);
    fixture.says(&ask[..3])?;
    assert_eq!(left().await?, 2);
    let head = ObjectKey::request_file_head(&owner, &name("b"));
    ensure!(objects.size(&head).await?.is_some(), "it is young");
    Ok(())
}
