//! The bundles that a gateway stands in front of, and the names by which clients ask for them: each bundle is a model, and
//! so is each of its adapters. The workers of each bundle have queues of their own, so that a name decides who answers.

use radialog_runtime::metrics::BundleLabel;
use radialog_schemas::{AdapterName, Conversation, OptionalTask, QueueGroup, Stage};

use crate::BundleHashes;

/// The name under which the first bundle always answers, and with `-ADAPTER` behind it each of its adapters.
pub const ALIAS: &str = "radialog";

/// One bundle, as a gateway knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedBundle {
    /// Its name and hashes.
    pub hashes: BundleHashes,
    /// The version of its weights.
    pub version: String,
    /// When its manifest was written, in seconds since 1970; 0 where that is not known.
    pub created: u64,
    /// The licence and origin of its weights.
    pub license: String,
    /// Whether the weights are random, so that outputs mean nothing.
    pub random_weights: bool,
    /// The adapters that a client may choose from; empty where there is no choice.
    pub adapters: Vec<AdapterName>,
    /// Tokens that prompt and answer may have together, where that is known.
    pub context_tokens: Option<u32>,
    /// The tasks that it was trained for beside those that every model knows.
    pub tasks: Vec<OptionalTask>,
    /// The group of queues that its workers take their tasks from.
    pub group: Option<QueueGroup>,
}

impl From<BundleHashes> for ServedBundle {
    fn from(hashes: BundleHashes) -> Self {
        Self {
            hashes,
            version: String::new(),
            created: 0,
            license: String::new(),
            random_weights: false,
            adapters: Vec::new(),
            context_tokens: None,
            tasks: Vec::new(),
            group: None,
        }
    }
}

impl ServedBundle {
    /// What operators are told.
    pub fn label(&self) -> BundleLabel {
        BundleLabel {
            name: self.hashes.name.clone(),
            version: self.version.clone(),
            hash: self.hashes.bundle.clone(),
            group: self.group.clone(),
        }
    }
}

/// A name that a client may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedModel {
    /// The name.
    pub id: String,
    /// The place of its bundle.
    bundle: usize,
    /// The adapter that answers; none is the bundle's own for each task.
    pub adapter: Option<AdapterName>,
}

/// All bundles of a gateway; the first one answers where no model is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedBundles {
    bundles: Vec<ServedBundle>,
    models: Vec<ServedModel>,
}

/// Bundles that cannot be served side by side.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServedBundlesError {
    /// There is none.
    #[error("there is no bundle to serve: name one with --bundle")]
    None,
    /// Two models would have one name.
    #[error(
        "two models are called '{0}', and a client could not say which it means: give one of the bundles another name in \
         its bundle.json"
    )]
    SameName(String),
    /// The workers of two bundles would take each other's tasks.
    #[error(
        "the bundles '{first}' and '{second}' have the same group of queues, so that their workers would take each \
         other's tasks: give each a group of its own, with --worker-group and --also GROUP=BUNDLE"
    )]
    SameGroup {
        /// One of them.
        first: String,
        /// The other one.
        second: String,
    },
}

impl From<BundleHashes> for ServedBundles {
    fn from(hashes: BundleHashes) -> Self {
        let bundle = ServedBundle::from(hashes);
        Self {
            models: models(0, &bundle),
            bundles: vec![bundle],
        }
    }
}

impl ServedBundles {
    /// Puts bundles side by side.
    ///
    /// # Errors
    /// None at all; two models of one name; two bundles of one group.
    pub fn new(bundles: Vec<ServedBundle>) -> Result<Self, ServedBundlesError> {
        if bundles.is_empty() {
            return Err(ServedBundlesError::None);
        }
        let mut served: Vec<ServedModel> = Vec::new();
        for (index, bundle) in bundles.iter().enumerate() {
            if let Some(other) = bundles[..index]
                .iter()
                .find(|other| other.group == bundle.group)
            {
                return Err(ServedBundlesError::SameGroup {
                    first: other.hashes.name.clone(),
                    second: bundle.hashes.name.clone(),
                });
            }
            for model in models(index, bundle) {
                if served.iter().any(|other| other.id == model.id) {
                    return Err(ServedBundlesError::SameName(model.id));
                }
                served.push(model);
            }
        }
        Ok(Self {
            bundles,
            models: served,
        })
    }

    /// Lists the bundles, the one that answers by default first.
    pub fn bundles(&self) -> &[ServedBundle] {
        &self.bundles
    }

    /// Lists the models with their bundles.
    pub fn models(&self) -> impl Iterator<Item = (&ServedModel, &ServedBundle)> {
        self.models
            .iter()
            .map(|model| (model, &self.bundles[model.bundle]))
    }

    /// Gives the bundle that answers where no model is named.
    pub fn default_bundle(&self) -> &ServedBundle {
        &self.bundles[0]
    }

    /// Finds who answers to this name; without a name, who answers by default. A model's own name counts before what
    /// [`ALIAS`] stands for.
    pub fn find(&self, name: Option<&str>) -> Option<(&ServedBundle, Option<&AdapterName>)> {
        let Some(name) = name else {
            return Some((self.default_bundle(), None));
        };
        let named = self.models().find(|(model, _)| model.id == name);
        let aliased = || {
            let rest = name.strip_prefix(ALIAS)?;
            let adapter = match rest {
                "" => None,
                rest => Some(rest.strip_prefix('-')?),
            };
            let of_first = self.models().filter(|(model, _)| model.bundle == 0);
            let mut candidates = of_first;
            candidates.find(|(model, _)| model.adapter.as_ref().map(AdapterName::as_str) == adapter)
        };
        named
            .or_else(aliased)
            .map(|(model, bundle)| (bundle, model.adapter.as_ref()))
    }

    /// Finds the bundle whose workers take the tasks of this group.
    pub fn of_group(&self, group: Option<&QueueGroup>) -> Option<&ServedBundle> {
        self.bundles
            .iter()
            .find(|bundle| bundle.group.as_ref() == group)
    }

    /// Names the model that answers this conversation; none where it was begun with a bundle that is not served here (any
    /// more).
    pub fn name_of(&self, conversation: &Conversation) -> Option<&str> {
        let mut models = self.models();
        let (model, _) = models.find(|(model, bundle)| {
            bundle.group == conversation.group
                && *bundle.hashes.component(Stage::Language) == conversation.component
                && model.adapter == conversation.adapter
        })?;
        Some(&model.id)
    }

    /// Lists the names, for messages.
    pub fn names(&self) -> String {
        let names: Vec<String> = self
            .models
            .iter()
            .map(|model| format!("'{}'", model.id))
            .collect();
        names.join(", ")
    }
}

/// The models of the bundle at this place: itself, and each of its adapters.
fn models(index: usize, bundle: &ServedBundle) -> Vec<ServedModel> {
    let name = &bundle.hashes.name;
    let itself = ServedModel {
        id: name.clone(),
        bundle: index,
        adapter: None,
    };
    let adapters = bundle.adapters.iter().map(|adapter| ServedModel {
        id: format!("{name}-{adapter}"),
        bundle: index,
        adapter: Some(adapter.clone()),
    });
    [itself].into_iter().chain(adapters).collect()
}

#[cfg(test)]
mod tests {
    use radialog_schemas::{ContentHash, PerStage};

    use super::*;

    fn bundle(name: &str, group: &str, adapters: &[&str]) -> ServedBundle {
        let hash = |what: &str| ContentHash::of(format!("{name} {what}").as_bytes());
        let hashes = BundleHashes {
            name: name.into(),
            bundle: hash("bundle"),
            components: PerStage::from_fn(|stage| hash(stage.name())),
        };
        ServedBundle {
            adapters: adapters.iter().map(|name| name.parse().unwrap()).collect(),
            group: group.parse().ok(),
            ..hashes.into()
        }
    }

    fn found(served: &ServedBundles, name: &str) -> Option<String> {
        let (bundle, adapter) = served.find(Some(name))?;
        let adapter = adapter.map_or("by task", AdapterName::as_str);
        Some(format!("{} {adapter}", bundle.hashes.name))
    }

    #[test]
    fn a_name_finds_its_own_model_and_never_one_whose_name_only_begins_alike() {
        let served = ServedBundles::new(vec![
            bundle("radialog-v1", "", &["rg", "ins"]),
            bundle("radialog-v1x", "x", &["ins"]),
            bundle("radialog-rg", "y", &[]),
        ])
        .unwrap();
        for (name, expected) in [
            ("radialog-v1", Some("radialog-v1 by task")),
            ("radialog-v1-ins", Some("radialog-v1 ins")),
            ("radialog-v1x-ins", Some("radialog-v1x ins")),
            ("radialog", Some("radialog-v1 by task")),
            ("radialog-ins", Some("radialog-v1 ins")),
            // A bundle's own name counts before the alias.
            ("radialog-rg", Some("radialog-rg by task")),
            ("radialog-v1x-rg", None),
            ("radialog-v", None),
            ("radialog-v1-", None),
            ("radialog-", None),
            ("radialogins", None),
            ("RADIALOG", None),
            ("", None),
        ] {
            assert_eq!(found(&served, name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn names_and_groups_that_could_mean_two_are_refused() {
        let twice = ServedBundles::new(vec![
            bundle("radialog", "", &["v1-ins"]),
            bundle("radialog-v1", "v1", &["ins"]),
        ]);
        let name = "radialog-v1-ins".to_owned();
        assert_eq!(twice, Err(ServedBundlesError::SameName(name)));
        let same = ServedBundles::new(vec![bundle("a", "x", &[]), bundle("b", "x", &[])]);
        assert!(matches!(same, Err(ServedBundlesError::SameGroup { .. })));
        assert_eq!(
            ServedBundles::new(Vec::new()),
            Err(ServedBundlesError::None)
        );
    }
}
