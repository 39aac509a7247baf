//! The last table, kept on disk: a gateway that is started while nobody leads serves what was served before.
//!
//! It holds addresses, limits and hashes of keys, and no secret.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::table::Endpoints;
use crate::link::message::Table;

/// Changes that come within this are written together.
const GATHER: Duration = Duration::from_millis(500);

/// The table that was kept; `None` when there is none.
///
/// # Errors
/// The file can't be read, or is no table.
pub fn load(file: &Path) -> io::Result<Option<Table>> {
    match std::fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Keeps the table whenever it changes, for ever. That it can't be written is said, and is no reason to stop.
pub async fn keep(endpoints: Arc<Endpoints>, file: PathBuf) {
    let mut version = endpoints.version();
    while version.changed().await.is_ok() {
        tokio::time::sleep(GATHER).await;
        version.mark_unchanged();
        let (table, file) = (endpoints.table(), file.clone());
        let written = tokio::task::spawn_blocking(move || {
            write(&file, &table).map_err(|it| format!("{}: {it}", file.display()))
        });
        match written.await {
            Ok(Ok(())) => (),
            Ok(Err(error)) => tracing::warn!(error, "the table is not kept"),
            Err(error) => tracing::warn!(%error, "the table is not kept"),
        }
    }
}

/// Written beside and moved: what is there is always whole.
fn write(file: &Path, table: &Table) -> io::Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, serde_json::to_vec(table).map_err(io::Error::other)?)?;
    std::fs::File::open(&new)?.sync_all()?;
    std::fs::rename(&new, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_loaded_and_rubbish_is_an_error() {
        let folder = std::env::temp_dir().join(format!("tenure-disk-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("table.json");
        assert_eq!(load(&file).unwrap(), None);
        let table = Table { replicas: [("g".to_owned(), "h:1".to_owned())].into(), routes: Vec::new() };
        write(&file, &table).unwrap();
        assert_eq!(load(&file).unwrap(), Some(table));
        std::fs::write(&file, "{").unwrap();
        assert!(load(&file).is_err());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
