//! `[stage.X.…]` laid over the file, key by key; every value keeps its place in the text, so that errors name the line.

use serde::de::DeserializeOwned;
use serde::de::Error as _;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Error};

/// The table of overlays.
const STAGE: &str = "stage";

/// A file's text as tables.
pub struct Document<'a> {
    plain: Spanned<DeTable<'a>>,
    stages: Vec<(String, Spanned<DeValue<'a>>)>,
}

impl<'a> Document<'a> {
    /// Splits the overlays from the rest.
    pub fn parse(text: &'a str) -> Result<Self, Error> {
        let mut plain = DeTable::parse(text)?;
        let stages = match plain.get_mut().remove(STAGE).map(|v| (v.span(), v.into_inner())) {
            None => Vec::new(),
            Some((_, DeValue::Table(table))) => table.into_iter().map(|(key, value)| (key.into_inner().into_owned(), value)).collect(),
            Some(_) => return Err(Error::custom("`stage` must be a table of environments: [stage.staging.rollout]")),
        };
        Ok(Self { plain, stages })
    }

    /// Environments that have an overlay.
    pub fn stages(&self) -> Vec<String> {
        self.stages.iter().map(|(name, _)| name.clone()).collect()
    }

    /// The file without any overlay.
    pub fn without_stages<T: DeserializeOwned>(&self) -> Result<T, Error> {
        T::deserialize(toml::de::Deserializer::from(self.plain.clone()))
    }

    /// The file with one overlay.
    pub fn with_stage<T: DeserializeOwned>(&self, name: &str) -> Result<T, Error> {
        let mut merged = self.plain.clone();
        if let Some((_, overlay)) = self.stages.iter().find(|(stage, _)| stage == name) {
            match overlay.get_ref() {
                DeValue::Table(table) => lay_over(merged.get_mut(), table),
                _ => return Err(Error::custom(format!("`stage.{name}` must be a table"))),
            }
        }
        T::deserialize(toml::de::Deserializer::from(merged))
    }
}

/// Tables are merged, everything else is replaced.
fn lay_over<'a>(base: &mut DeTable<'a>, over: &DeTable<'a>) {
    for (key, value) in over {
        let below = base.get_mut(key).map(Spanned::get_mut);
        if let (Some(DeValue::Table(below)), DeValue::Table(table)) = (below, value.get_ref()) {
            lay_over(below, table);
        } else {
            // Removed first: the key itself carries its place in the text.
            base.remove(key);
            base.insert(key.clone(), value.clone());
        }
    }
}
