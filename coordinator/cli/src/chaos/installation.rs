//! The installation under test: services, links and roles, each a child of this process.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use radialog_runtime::local_services::{TcpProxy, free_port};
use radialog_schemas::Stage;
use tokio::sync::{Mutex, MutexGuard};

use super::journal::Journal;
use super::role::{Role, RoleSettings};
use super::schedule::Targets;
use super::services::{Group, Links, Services};
use super::watchdog::{Watchdog, moment};

/// The owner of a run over the archive, which only runs while there is one.
pub(super) const BATCH: &str = "batch";
/// What the names of all workers begin with.
pub(super) const WORKER: &str = "worker ";
const GATEWAYS: usize = 2;
/// Settings with which roles notice within seconds what they would notice within a minute.
const IMPATIENT: [(&str, &str); 6] = [
    ("RADIALOG_AMQP_HEARTBEAT", "2"),
    ("RADIALOG_REDIS_TIMEOUT", "4"),
    ("RADIALOG_GATEWAY_REPUBLISH_AFTER", "10"),
    ("RADIALOG_RETENTION_GRACE", "60"),
    ("RADIALOG_RETENTION_INTERVAL", "10"),
    ("RUST_LOG", "info"),
];

/// How many roles there are, and what they work with.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    /// Workers of each stage.
    pub(crate) workers: u32,
    /// What `--bundle` of every role is; none is the demo bundle.
    pub(crate) bundle: Option<String>,
}

/// A running installation.
pub(super) struct Installation {
    pub(super) services: Mutex<Services>,
    links: Vec<(Group, Links)>,
    roles: Vec<Mutex<Role>>,
    names: Vec<String>,
    gateways: Vec<String>,
    directory: PathBuf,
    scale: Scale,
    http: reqwest::Client,
}

impl Installation {
    /// Prepares all roles; none of them is started yet.
    pub(super) async fn prepare(
        services: Services,
        directory: &Path,
        scale: Scale,
    ) -> anyhow::Result<Self> {
        let mut links = Vec::new();
        for group in Group::ALL {
            links.push((group, services.links(group).await?));
        }
        let mut installation = Self {
            services: Mutex::new(services),
            links,
            roles: Vec::new(),
            names: Vec::new(),
            gateways: Vec::new(),
            directory: directory.to_owned(),
            scale,
            http: reqwest::Client::new(),
        };
        for stage in Stage::ALL {
            for number in 1..=installation.scale.workers {
                let name = format!("{WORKER}{stage} {number}");
                let arguments = ["worker".to_owned(), stage.name().to_owned()];
                installation.add(Group::Workers, &name, arguments.into(), true)?;
            }
        }
        let coordinator = vec!["coordinator".to_owned()];
        installation.add(Group::Coordinators, "coordinator", coordinator, false)?;
        for number in 1..=GATEWAYS {
            let address = format!("127.0.0.1:{}", free_port()?);
            installation.gateways.push(format!("http://{address}"));
            let arguments = ["gateway", "--listen", &address].map(str::to_owned);
            let name = format!("gateway {number}");
            installation.add(Group::Gateways, &name, arguments.into(), true)?;
        }
        installation.add(Group::Coordinators, BATCH, Vec::new(), false)?;
        Ok(installation)
    }

    fn add(
        &mut self,
        group: Group,
        name: &str,
        mut arguments: Vec<String>,
        has_models: bool,
    ) -> anyhow::Result<()> {
        let health = format!("127.0.0.1:{}", free_port()?);
        arguments.extend(["--health-address".to_owned(), health.clone()]);
        if has_models {
            arguments.extend(self.bundle_flag());
        }
        let links = self.links.iter().find(|(other, _)| *other == group);
        let mut environment = links.map_or(Vec::new(), |(_, links)| links.environment().to_vec());
        environment.extend(IMPATIENT.map(|(name, value)| (name, value.to_owned())));
        let own = self.directory.join(name.replace(' ', "-"));
        let gateway_directory = own.join("archive-runs").display().to_string();
        environment.push(("RADIALOG_GATEWAY_DIRECTORY", gateway_directory));
        std::fs::create_dir_all(&own)?;
        self.roles.push(Mutex::new(Role::new(RoleSettings {
            name: name.to_owned(),
            arguments,
            environment,
            log: own.join("log"),
            directory: own,
            health: Some(health.parse()?),
        })));
        self.names.push(name.to_owned());
        Ok(())
    }

    pub(super) fn bundle_flag(&self) -> Vec<String> {
        let bundle = self.scale.bundle.clone();
        bundle.map_or(Vec::new(), |bundle| vec!["--bundle".to_owned(), bundle])
    }

    /// Everything that can break.
    pub(super) async fn targets(&self) -> Targets {
        let services = self.services.lock().await;
        let links = self.links.iter().flat_map(|(_, links)| links.proxies());
        Targets {
            roles: self.names.clone(),
            links: links.map(|(name, _)| name.to_owned()).collect(),
            services: services.broker.is_some(),
        }
    }

    /// The addresses of all gateways.
    pub(super) fn gateways(&self) -> &[String] {
        &self.gateways
    }

    pub(super) fn link(&self, name: &str) -> anyhow::Result<&TcpProxy> {
        let mut links = self.links.iter().flat_map(|(_, links)| links.proxies());
        let found = links.find(|(other, _)| *other == name);
        Ok(found.with_context(|| format!("no link '{name}'"))?.1)
    }

    pub(super) async fn role(&self, name: &str) -> anyhow::Result<MutexGuard<'_, Role>> {
        let place = self.names.iter().position(|other| other == name);
        let place = place.with_context(|| format!("no role '{name}'"))?;
        Ok(self.roles[place].lock().await)
    }

    /// Starts all roles but the batch, and waits until they are ready.
    pub(super) async fn start(&self, journal: &Journal, patience: Duration) -> anyhow::Result<()> {
        for name in self.standing() {
            self.role(name).await?.start()?;
        }
        for name in self.standing() {
            let watchdog = Watchdog::new(journal, patience);
            while !self.is_ready(name).await
                && watchdog.goes_on(|| format!("the start of {name}")).await
            {}
        }
        Ok(())
    }

    fn standing(&self) -> impl Iterator<Item = &str> {
        let names = self.names.iter().map(String::as_str);
        names.filter(|name| *name != BATCH)
    }

    /// Whether a role says that it can work.
    pub(super) async fn is_ready(&self, name: &str) -> bool {
        let Ok(role) = self.role(name).await else {
            return false;
        };
        let Some(health) = role.settings.health.filter(|_| role.is_running()) else {
            return false;
        };
        drop(role);
        let asking = self
            .http
            .get(format!("http://{health}/readyz"))
            .timeout(Duration::from_secs(1))
            .send();
        asking
            .await
            .is_ok_and(|answer| answer.status().is_success())
    }

    /// Starts roles again that have ended although nobody had told them to, until the run is stopped. The batch is looked
    /// after by those who wait for its end.
    pub(super) async fn supervise(&self, journal: &Journal) -> anyhow::Result<()> {
        while moment(journal).await {
            for name in self.standing() {
                let mut role = self.role(name).await?;
                if role.is_held {
                    continue;
                }
                if role.ended()?.is_some() {
                    *journal
                        .counts()
                        .own_exits
                        .entry(name.to_owned())
                        .or_default() += 1;
                    role.start()?;
                }
            }
        }
        Ok(())
    }

    /// Lets every link through, whatever faults have left.
    pub(super) fn heal_links(&self) {
        for (_, proxy) in self.links.iter().flat_map(|(_, links)| links.proxies()) {
            proxy.restore();
        }
    }

    /// Kills whatever runs.
    pub(super) async fn kill(&self) {
        for role in &self.roles {
            role.lock().await.kill();
        }
    }

    /// Tells these roles to stop, and waits for all of them; says which did not end as it should.
    pub(super) async fn stop(
        &self,
        is_meant: impl Fn(&str) -> bool,
        patience: Duration,
    ) -> anyhow::Result<Vec<String>> {
        let meant: Vec<&str> = self.standing().filter(|name| is_meant(name)).collect();
        for name in &meant {
            let mut role = self.role(name).await?;
            role.is_held = true;
            role.signal("CONT")?;
            role.signal("TERM")?;
        }
        let mut wrong = Vec::new();
        let begun = Instant::now();
        for name in meant {
            loop {
                let mut role = self.role(name).await?;
                let ended = role.ended()?;
                let is_running = role.is_running();
                drop(role);
                match ended {
                    Some(status) if !status.success() => {
                        wrong.push(format!("{name} ended with {status} at SIGTERM"));
                        break;
                    }
                    _ if !is_running => break,
                    _ if begun.elapsed() > patience => {
                        wrong.push(format!("{name} did not end at SIGTERM"));
                        self.role(name).await?.kill();
                        break;
                    }
                    _ => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        }
        Ok(wrong)
    }
}
