//! The files of a run at its prefix, for people and programs.
//!
//! A session that has lost the prefix, and does not know it yet, must not replace what another one has published: of a
//! frozen process even a request that was sent before can arrive late. So the version that is there is looked up first, then
//! the lease is renewed, and only then the file replaces that very version. Whatever another session has published was
//! published after it had taken the lease, so it is another version, and the write does not happen. What this session still
//! writes before the other one publishes, the other one replaces.

use std::path::Path;

use radialog_runtime::objects::ObjectError;
use radialog_schemas::ObjectKey;

use super::{LINES, RESULTS_FILE, StoredOutput, key, remove_others};
use crate::CoordinatorError;
use crate::run::output::stamps::STAMPS_FILE;
use crate::run::output::{PROBLEMS_FILE, RUN_FILE, SUMMARY_FILE, TABLE_FILE};

/// Attempts to replace a file that another session, which has lost the prefix, is writing at the same time.
const ATTEMPTS: u32 = 10;

impl StoredOutput {
    /// Stores what is left, copies the files to the prefix, and lets go of it.
    pub(super) async fn publish(&self) -> Result<(), CoordinatorError> {
        self.store_lines().await?;
        for name in [
            RUN_FILE,
            RESULTS_FILE,
            TABLE_FILE,
            SUMMARY_FILE,
            PROBLEMS_FILE,
            STAMPS_FILE,
        ] {
            let file = self.folder.join(name);
            // An interrupted start has not made them all.
            if file.exists() {
                self.replace(&key(&self.prefix, name, "")?, &file).await?;
            }
        }
        let record = self.lease.lock().await.record().clone();
        // What a store left that the run's end broke off. Another session's pieces have its name in theirs.
        let own = format!("{LINES}{}-", record.holder);
        remove_others(&*self.objects, &self.prefix, &record, &own).await;
        let mut lease = self.lease.lock().await;
        lease.commit(|record| record.ended = true).await
    }

    async fn replace(&self, key: &ObjectKey, file: &Path) -> Result<(), CoordinatorError> {
        for _ in 0..ATTEMPTS {
            // The order is the point: a session that takes over now publishes another version than this.
            let version = self.objects.version(key).await?;
            self.lease.lock().await.commit(|_| {}).await?;
            let put = self.objects.put_file_if(key, file, version.as_ref());
            if put.await? {
                return Ok(());
            }
        }
        Err(ObjectError::Store {
            key: key.to_string(),
            reason: "somebody else keeps replacing it; choose another --out".into(),
        }
        .into())
    }
}
