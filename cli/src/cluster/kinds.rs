//! Words for kinds and objects, as kubectl takes them: `pod`, `pods`, `po`, `pod/web`,
//! `deploy/web`, `all`, and several with commas between.

use berth_scheduler::api::kind::{KINDS, Kind};
use kube::Api;
use kube::Client;
use kube::core::{ApiResource, DynamicObject};

use crate::error::{Error, Result};

/// One thing that a command line names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Which kind.
    pub kind: &'static Kind,
    /// Which one; all of the kind without.
    pub name: Option<String>,
}

/// What `KIND`, `KIND NAME…`, `KIND/NAME…` and `KIND,KIND` mean.
///
/// # Errors
///
/// A word is no kind, or the two forms are mixed.
pub fn parse(words: &[String]) -> Result<Vec<Wanted>> {
    let Some(first) = words.first() else {
        return Err(Error::new(
            "nothing was named: expected KIND, KIND NAME or KIND/NAME",
        ));
    };
    if first.contains('/') {
        return words.iter().map(|word| parse_one(word)).collect();
    }
    let kinds: Vec<&'static Kind> = first
        .split(',')
        .map(find)
        .collect::<Result<Vec<_>>>()?
        .concat();
    let names = &words[1..];
    if let Some(mixed) = names.iter().find(|name| name.contains('/')) {
        return Err(Error::new(format!(
            "{mixed:?} stands behind a kind: expected KIND NAME… or KIND/NAME…, not both"
        )));
    }
    let named = |kind: &'static Kind| -> Vec<Wanted> {
        if names.is_empty() {
            return vec![Wanted { kind, name: None }];
        }
        let one = |name: &String| Wanted {
            kind,
            name: Some(name.clone()),
        };
        names.iter().map(one).collect()
    };
    Ok(kinds.into_iter().flat_map(named).collect())
}

/// What `KIND/NAME` means.
///
/// # Errors
///
/// It has another form, or the kind is not known.
pub fn parse_one(word: &str) -> Result<Wanted> {
    let (kind, name) = word
        .split_once('/')
        .filter(|(_, name)| !name.is_empty() && !name.contains('/'))
        .ok_or_else(|| Error::new(format!("{word:?}: expected KIND/NAME, like pod/web")))?;
    match find(kind)?.as_slice() {
        [kind] => Ok(Wanted {
            kind,
            name: Some(name.to_owned()),
        }),
        _ => Err(Error::new(format!(
            "{word:?}: {kind} means several kinds; expected one before the '/'"
        ))),
    }
}

/// The kinds that a word means: one, or those of a category.
fn find(word: &str) -> Result<Vec<&'static Kind>> {
    let low = word.to_lowercase();
    let (name, group) = match low.split_once('.') {
        Some((name, group)) => (name, Some(group)),
        None => (low.as_str(), None),
    };
    let is_named = |kind: &&Kind| {
        let known = kind.plural == name
            || kind.singular == name
            || kind.kind.to_lowercase() == name
            || kind.short_names.contains(&name);
        known && group.is_none_or(|group| group == kind.group || group == kind.version)
    };
    if let Some(kind) = KINDS.iter().find(is_named) {
        return Ok(vec![kind]);
    }
    let several: Vec<&Kind> = KINDS
        .iter()
        .filter(|kind| kind.categories.contains(&name))
        .collect();
    if !several.is_empty() {
        return Ok(several);
    }
    let mut known: Vec<&str> = KINDS.iter().map(|kind| kind.plural).collect();
    known.sort_unstable();
    known.dedup();
    Err(Error::new(format!(
        "{word:?} is no kind that the cluster serves; expected one of {}",
        known.join(", ")
    )))
}

/// A kind as kube's dynamic client names it.
pub fn resource(kind: &Kind) -> ApiResource {
    ApiResource {
        group: kind.group.to_owned(),
        version: kind.version.to_owned(),
        api_version: kind.api_version(),
        kind: kind.kind.to_owned(),
        plural: kind.plural.to_owned(),
    }
}

/// The objects of a kind: of a namespace, or of the cluster.
pub fn objects(client: &Client, kind: &Kind, namespace: &str) -> Api<DynamicObject> {
    let resource = resource(kind);
    if kind.namespaced() {
        Api::namespaced_with(client.clone(), namespace, &resource)
    } else {
        Api::all_with(client.clone(), &resource)
    }
}

/// `pod/web`, `deployment.apps/web`: as answers name an object.
pub fn title(kind: &Kind, name: &str) -> String {
    match kind.group {
        "" => format!("{}/{name}", kind.singular),
        group => format!("{}.{group}/{name}", kind.singular),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Vec<(&'static str, Option<String>)>> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let wanted = parse(&words)?;
        Ok(wanted
            .into_iter()
            .map(|wanted| (wanted.kind.plural, wanted.name))
            .collect())
    }

    #[test]
    fn all_forms_of_kubectl_are_read() {
        let web = || Some("web".to_owned());
        for word in ["pod", "pods", "po", "Pod", "POD"] {
            assert_eq!(read(&[word]).unwrap(), [("pods", None)], "{word}");
        }
        assert_eq!(read(&["po", "web"]).unwrap(), [("pods", web())]);
        assert_eq!(read(&["pod/web"]).unwrap(), [("pods", web())]);
        assert_eq!(
            read(&["deploy/web", "svc/web"]).unwrap(),
            [("deployments", web()), ("services", web())]
        );
        assert_eq!(
            read(&["deployments.apps,svc", "web"]).unwrap(),
            [("deployments", web()), ("services", web())]
        );
        assert!(read(&["all"]).unwrap().len() > 3);
    }

    #[test]
    fn mistakes_are_named() {
        let fails = |words: &[&str]| read(words).unwrap_err().chain();
        assert!(fails(&["gadget"]).contains("deployments"));
        assert!(fails(&["pod", "svc/web"]).contains("not both"));
        assert!(fails(&["pod/"]).contains("KIND/NAME"));
        assert!(fails(&["pod/a/b"]).contains("KIND/NAME"));
        assert!(fails(&[]).contains("nothing was named"));
    }
}
