//! Files of an earlier evaluation, which are never beside a later one's failure under their names.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use radialog_files::durable;

use crate::exit::{EXIT_INTERRUPTED, UsageError, is_of_another_run};

/// The end of the names of files of an earlier evaluation, while a new one has not come to its end.
const OLD: &str = "old";

/// The files of an evaluation, and whether an earlier one had them.
#[derive(Default)]
pub(crate) struct FormerFiles(Vec<(PathBuf, bool)>);

impl FormerFiles {
    /// Gives files names that say that they are old, until the evaluation has come to its end. Those that are not there may still be
    /// written by it. None may be one that the evaluation reads, since that would be gone at its end.
    pub(crate) fn set_aside<'a>(
        &mut self,
        files: &[PathBuf],
        read: impl IntoIterator<Item = &'a Path>,
    ) -> anyhow::Result<()> {
        for read in read {
            let place = fs::canonicalize(read).ok();
            let is_it = |file: &&PathBuf| {
                **file == read || place.is_some() && fs::canonicalize(file).ok() == place
            };
            if let Some(file) = files.iter().find(is_it) {
                let message = format!(
                    "'{}' is read, and would be overwritten: write to another place",
                    file.display()
                );
                return Err(UsageError(message).into());
            }
        }
        if let Some(folder) = files.iter().find(|file| file.is_dir()) {
            let message = format!(
                "'{}' is a folder, and a file is written: name one in it",
                folder.display()
            );
            return Err(UsageError(message).into());
        }
        // A link stays: what it leads to is set aside.
        let files = files.iter().map(|file| durable::target_of(file));
        let files: Vec<PathBuf> = files.collect::<io::Result<_>>()?;
        let mut places = BTreeSet::new();
        for file in &files {
            let folder = file.parent().filter(|folder| *folder != Path::new(""));
            let folder = folder.unwrap_or(Path::new("."));
            let folder = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
            if !places.insert(folder.join(file.file_name().unwrap_or_default())) {
                let message = format!(
                    "two files would be written to '{}': name another place for one of them",
                    file.display()
                );
                return Err(UsageError(message).into());
            }
        }
        for file in files {
            let was_there = match fs::rename(&file, old(&file)) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => {
                    let shown = file.display();
                    return Err(error).context(format!("cannot set '{shown}' aside"));
                }
            };
            self.0.push((file, was_there));
        }
        Ok(())
    }

    /// The files that an earlier evaluation had, each with the name that it has now.
    pub(crate) fn were_there(&self) -> impl Iterator<Item = (&Path, PathBuf)> {
        let files = self.0.iter().filter(|(_, was_there)| *was_there);
        files.map(|(file, _)| (file.as_path(), old(file)))
    }

    /// Removes the earlier files where the evaluation has come to its end. Where it failed they keep the names that say that they
    /// are old; but an evaluation that was refused, since the folder's runs are of another one or of nobody knows which, has not touched
    /// them.
    pub(crate) fn settle(self, result: &anyhow::Result<ExitCode>) -> anyhow::Result<()> {
        for (file, was_there) in self.0 {
            let settled = match result {
                Ok(code) if *code == ExitCode::from(EXIT_INTERRUPTED) => Ok(()),
                Ok(_) => match fs::remove_file(old(&file)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                    _ => Ok(()),
                },
                Err(error) if was_there && is_of_another_run(error) => {
                    fs::rename(old(&file), &file)
                }
                Err(_) => Ok(()),
            };
            settled.with_context(|| format!("cannot settle '{}'", old(&file).display()))?;
        }
        Ok(())
    }
}

fn old(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".");
    name.push(OLD);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_never_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("a.csv"), folder.path().join("b.csv"));
        fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for read in [&file, &link] {
            let mut former = FormerFiles::default();
            let files = [folder.path().join("missing"), file.clone()];
            let refused = former.set_aside(&files, [read.as_path()]).unwrap_err();
            assert!(refused.to_string().contains("is read"), "{refused}");
            assert!(refused.downcast_ref::<UsageError>().is_some() && file.exists());
        }
        // A link stays, and what is no file is left alone.
        let socket = folder.path().join("socket");
        let _listens = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(
            FormerFiles::default()
                .set_aside(std::slice::from_ref(&socket), [])
                .is_err()
        );
        assert!(socket.exists());
        let both = [file.clone(), link.clone()];
        assert!(FormerFiles::default().set_aside(&both, []).is_err());
        assert!(file.exists());
        let mut former = FormerFiles::default();
        former.set_aside(std::slice::from_ref(&link), []).unwrap();
        assert!(link.is_symlink() && !file.exists());
        fs::rename(old(&file), &file).unwrap();
        let files = [folder.path().to_owned()];
        assert!(FormerFiles::default().set_aside(&files, []).is_err());
        assert!(file.exists());
    }
}
