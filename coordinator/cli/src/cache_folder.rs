//! The folder of what can be made again: unpacked and fetched bundles, working folders of runs into a store. It is the user's;
//! where there is none that can be written, as in a container without a home, it is a private one that goes with the process.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use radialog_models::bundle::hashes::{CACHE_VARIABLE, user_cache_dir};

use crate::private_folder::PrivateFolder;

/// The private folder of this process, once one was needed.
static PRIVATE: Mutex<Option<PrivateFolder>> = Mutex::new(None);

/// Finds the folder. One that RADIALOG_CACHE names is taken as it is.
///
/// # Errors
/// When there is no user's folder, and no private one can be made.
pub(crate) fn cache_folder() -> anyhow::Result<PathBuf> {
    let is_named = std::env::var_os(CACHE_VARIABLE).is_some_and(|value| !value.is_empty());
    let why = match user_cache_dir() {
        Some(folder) if is_named || is_writable(&folder) => return Ok(folder),
        Some(folder) => format!("{} cannot be written", folder.display()),
        None => "neither XDG_CACHE_HOME nor HOME is set".to_owned(),
    };
    let mut private = PRIVATE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = match &mut *private {
        Some(folder) => folder,
        none => {
            let folder = none.insert(PrivateFolder::new()?);
            errln!(
                "note: {why}, so that bundles are unpacked in {} and removed at the end; {CACHE_VARIABLE} names a folder to keep \
                 them in.",
                folder.path().display()
            );
            folder
        }
    };
    Ok(folder.path().to_owned())
}

/// Removes the private folder, at the end of the process.
pub(crate) fn remove_private() {
    let private = PRIVATE
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    drop(private);
}

fn is_writable(folder: &Path) -> bool {
    let made = fs::create_dir_all(folder);
    made.and_then(|()| tempfile::tempfile_in(folder)).is_ok()
}
