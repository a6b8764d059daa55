//! The two sizes that random bundles have, and the two published systems that they can be of.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Width of every network of the tiny geometry. Image, context and prompts keep their published sizes, so that real inputs
/// take the same path.
pub(super) const TINY_WIDTH: usize = 64;

/// A size of random bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Geometry {
    /// Every part in miniature; some megabytes.
    Tiny,
    /// The published shapes; about 15 GB.
    Published,
}

/// One of the two published systems: they differ in what makes image tokens, in the language model and in its prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum System {
    /// RaDialog of 2023: Q-Former, Vicuna-7B.
    #[default]
    V1,
    /// RaDialog of 2024: the image encoder's grid, LLaVA-1.5-7B.
    V2,
}

impl Geometry {
    /// The one word for it.
    pub fn name(self) -> &'static str {
        match self {
            Geometry::Tiny => "tiny",
            Geometry::Published => "published",
        }
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Geometry {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        [Geometry::Tiny, Geometry::Published]
            .into_iter()
            .find(|geometry| geometry.name() == name)
            .ok_or_else(|| format!("'{name}' is not a geometry; use tiny or published"))
    }
}
