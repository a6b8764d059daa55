//! Recipes: all that decides a training, in one TOML file. Unknown keys are refused, and every fault is told at once.

use std::fs;
use std::path::{Path, PathBuf};

use radialog_schemas::ContentHash;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::TrainingError;

mod alignment;
mod chexbert;
mod faults;
mod findings;
mod gate;
mod language;
mod training_arguments;

use faults::Faults;

pub use alignment::{AlignmentRecipe, PairTable};
pub use chexbert::{ChexbertRecipe, ZeroLabels};
pub use findings::{BlankLabels, ChosenBy, FindingsRecipe, ImageTable, LabelRule, UncertainLabels};
pub use gate::{GateRecipe, GateTable};
pub use language::{LanguageRecipe, LoraRecipe};
pub use training_arguments::TrainingArguments;

/// The name by which a recipe starts from the bundle that comes with the program. Whoever reads a recipe puts that bundle's folder in
/// its place: this library has none.
pub const DEMO: &str = "demo";

/// A recipe as it was read, with a hash that says whether two are the same.
#[derive(Clone, Debug)]
pub struct LoadedRecipe<T> {
    /// The recipe, its paths made whole.
    pub recipe: T,
    /// The hash of the file's content.
    pub hash: ContentHash,
}

/// What the recipes of all trainings have in common.
///
/// The keys of [`TrainingArguments`] stand beside those of the recipe's own in the file. serde's `flatten` would lose the
/// places of errors and could not refuse unknown keys, so that both parts are read from the same text, each leaving out
/// what it does not know, and [`Faults::unknown_keys`] looks for keys that neither has.
trait Recipe: Serialize + DeserializeOwned {
    /// What the arguments are where the file leaves them out.
    fn defaults() -> TrainingArguments;

    /// The arguments of this recipe.
    fn arguments(&mut self) -> &mut TrainingArguments;

    /// Makes paths whole, which are relative to the recipe's folder.
    fn resolve(&mut self, folder: &Path);

    /// Adds what is wrong with the recipe's own keys, and with arguments that mean something of their own here.
    fn check(&self, faults: &mut Faults);
}

/// Whether a bundle is named by its name, and not as a folder: `./demo` is one.
fn is_demo(bundle: &Path) -> bool {
    bundle.as_os_str() == DEMO
}

/// A bundle's place beside the recipe, or its name.
fn bundle_in(folder: &Path, bundle: &Path) -> PathBuf {
    match is_demo(bundle) {
        true => bundle.to_owned(),
        false => folder.join(bundle),
    }
}

/// Reads and checks a recipe.
fn read<R: Recipe>(path: &Path) -> Result<LoadedRecipe<R>, TrainingError> {
    let text = fs::read_to_string(path).map_err(TrainingError::io("read", path))?;
    let refused = |faults: Vec<String>| TrainingError::Recipe {
        path: path.to_owned(),
        faults,
    };
    let syntax = |error: toml::de::Error| refused(vec![error.to_string().trim().to_owned()]);
    let mut recipe: R = toml::from_str(&text).map_err(syntax)?;
    let arguments = TrainingArguments::parse(&text, R::defaults()).map_err(syntax)?;
    let mut faults = Faults::default();
    faults.unknown_keys(&text, &recipe, &arguments);
    let folder = path.parent().unwrap_or(Path::new("."));
    *recipe.arguments() = arguments;
    recipe.arguments().resolve(folder);
    recipe.resolve(folder);
    recipe.check(&mut faults);
    recipe.arguments().check(&mut faults);
    match faults.into_all() {
        faults if faults.is_empty() => Ok(LoadedRecipe {
            recipe,
            hash: ContentHash::of(text.as_bytes()),
        }),
        faults => Err(refused(faults)),
    }
}
