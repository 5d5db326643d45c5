//! What would be published now, and what would refuse it. Nothing is written: no sequence number, no archive, no manifest.

use coord_proto::keys::KeySpace;
use coord_proto::manifest::Manifest;
use coord_proto::rollout::RolloutSpec;
use coord_proto::store::Store;

use super::{Draft, PublishError, Request, Signing, Standing, free_release};

/// A release that is not published.
#[derive(Debug)]
pub struct Preview {
    pub spec: RolloutSpec,
    pub manifest: Manifest,
    /// Signatures that servers would still want: it would wait for them.
    pub missing: usize,
    /// All that stands in its way, not only the first.
    pub refused: Vec<PublishError>,
}

/// Drafts it as [`super::publish`] would. `now` is Unix seconds.
///
/// # Errors
/// The store does not answer: whether it would be refused, nobody knows then.
pub async fn preview(
    store: &dyn Store,
    keys: &KeySpace,
    signing: &Signing<'_>,
    request: &Request<'_>,
    now: i64,
) -> Result<Preview, PublishError> {
    let standing = Standing::look(store, keys, &request.deploy.app).await?;
    let mut refused = Vec::new();
    let missing = signing.missing().unwrap_or_else(|error| {
        refused.push(error);
        0
    });
    refused.extend(standing.admit(missing, request.supersede).err());
    let release = match free_release(store, keys, request, now).await {
        Ok(release) => release,
        Err(PublishError::ReleaseTaken { release, by }) => {
            refused.push(PublishError::ReleaseTaken { release: release.clone(), by });
            release
        }
        Err(error) => return Err(error),
    };
    let draft = Draft::new(&standing, request, release, now);
    // Looked at as for publishing, and not signed: a plan asks nobody to touch a key.
    refused.extend(signing.checked(&draft.manifest).err());
    Ok(Preview { spec: draft.spec(request), manifest: draft.manifest, missing, refused })
}
