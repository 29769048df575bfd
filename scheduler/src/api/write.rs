//! Creating and changing objects: read, edit, check, write if nobody else wrote meanwhile.
//!
//! The store takes a write only if the object is still the one that was read (optimistic
//! concurrency). A client that names a `resourceVersion` insists on having seen the newest state
//! and gets 409 otherwise; one that names none wants its change on top of whatever is there, so
//! the server reads again and repeats the edit.
//!
//! Read more: API conventions, "Concurrency Control and Consistency".

use serde_json::{Map, Value, json};

use crate::{
    api::{
        Api, admit,
        cache::store_error,
        defaults,
        error::{ApiError, FieldError},
        kind::{Kind, Subresource},
        object,
    },
    pod::worker::create_uid,
    store::{Entry, Expected, StoreError},
};

/// How often an edit is repeated on a newer state before the client is told of the conflict.
const ATTEMPTS: usize = 16;
/// How long a name that the server completes may be before its suffix: 63 with it.
const GENERATED_BASE_LIMIT: usize = 58;

/// An object, or where one shall be.
#[derive(Debug, Clone)]
pub struct Place {
    /// What it is.
    pub kind: &'static Kind,
    /// Its namespace; empty for kinds of the cluster.
    pub namespace: String,
    /// Its name; empty where the body or the server names it.
    pub name: String,
}

impl Place {
    /// Where the store has it.
    #[must_use]
    pub fn key(&self) -> String {
        self.kind.key(&self.namespace, &self.name)
    }
}

/// What a write may say about itself.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// Whether everything happens but the write.
    pub mode: Mode,
    /// Who writes, for `metadata.managedFields`.
    pub manager: String,
    /// What happens to fields that the kind does not have.
    pub validation: FieldValidation,
    /// Whether the write is noted in `metadata.managedFields`.
    pub account: Account,
}

/// Whether a write is noted in `metadata.managedFields`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Account {
    /// It is noted.
    #[default]
    Noted,
    /// Server-side apply has noted it, or the server itself writes.
    Kept,
}

/// Whether a write is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The state changes.
    #[default]
    Write,
    /// `dryRun=All`: the answer is as if the state had changed.
    DryRun,
}

/// `fieldValidation`: what happens to fields that the kind does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// They are dropped in silence.
    Ignore,
    /// They are dropped and each is told in a warning.
    #[default]
    Warn,
    /// The request fails.
    Strict,
}

/// Which half of an object an update is about; the other half stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What is wanted.
    Wanted,
    /// What is observed.
    Status,
    /// Of what is wanted only the resources of a pod's containers.
    Resize,
    /// Both: for changes that the server itself makes.
    Both,
}

impl Part {
    /// The subresource whose path is about this part.
    #[must_use]
    pub fn subresource(self) -> Option<Subresource> {
        match self {
            Part::Status => Some(Subresource::Status),
            Part::Resize => Some(Subresource::Resize),
            Part::Wanted | Part::Both => None,
        }
    }
}

/// The outcome of a write.
#[derive(Debug, Clone)]
pub struct Written {
    /// The object as it is now.
    pub object: Value,
    /// Whether it was made just now.
    pub created: bool,
    /// Lines for `Warning` headers.
    pub warnings: Vec<String>,
}

/// An object as it was read, with its entry in the store.
#[derive(Debug, Clone)]
pub struct Current {
    /// The object with its resource version.
    pub value: Value,
    /// What a write expects to find.
    pub entry: Entry,
}

impl Api {
    /// Reads an object from the store, as new as can be.
    ///
    /// # Errors
    ///
    /// 404 if there is none.
    pub async fn read(&self, place: &Place) -> Result<Current, ApiError> {
        let found = self.store.read(&place.key()).await.map_err(store_error)?;
        let entry = found
            .entry
            .ok_or_else(|| ApiError::not_found(place.kind, &place.name))?;
        Ok(Current {
            value: object::decode(&entry)?,
            entry,
        })
    }

    /// Makes a new object.
    ///
    /// # Errors
    ///
    /// 409 if the name is taken, 422 with the wrong fields, 404 or 403 for its namespace.
    pub async fn create(
        &self,
        place: &Place,
        body: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let mut place = place.clone();
        let mut value = body;
        let warnings = admit::fields(place.kind, &mut value, options.validation)?;
        let generated = name_new_object(&mut place, &mut value)?;
        self.check_namespace(&place).await?;
        reset_system_fields(place.kind, &mut value);
        admit::create(self, place.kind, &mut value).await?;
        admit::track(place.kind, None, &mut value, options, Part::Wanted);
        for attempt in 1.. {
            match self.create_once(&place, &value, options).await {
                // Another object has the random suffix: take another suffix.
                Err(error)
                    if generated.is_some()
                        && error.reason == "AlreadyExists"
                        && attempt < ATTEMPTS =>
                {
                    place.name = format!(
                        "{}{}",
                        generated.as_deref().unwrap_or_default(),
                        object::random_suffix()
                    );
                    object::set_meta(&mut value, "name", place.name.clone());
                }
                Err(error) => return Err(error),
                Ok(object) => {
                    return Ok(Written {
                        object,
                        created: true,
                        warnings,
                    });
                }
            }
        }
        unreachable!("the loop ends by returning")
    }

    async fn create_once(
        &self,
        place: &Place,
        value: &Value,
        options: &WriteOptions,
    ) -> Result<Value, ApiError> {
        let mut value = value.clone();
        let allotted = self
            .services
            .allot(self, place, &mut value, None, options.mode)
            .await?;
        let outcome = self.store_new(place, &value, options).await;
        match outcome {
            Ok(Some(entry)) => object::set_resource_version(&mut value, entry.modified),
            Ok(None) => {}
            Err(error) => {
                self.services.give_back(self, allotted).await;
                return Err(error);
            }
        }
        Ok(value)
    }

    async fn store_new(
        &self,
        place: &Place,
        value: &Value,
        options: &WriteOptions,
    ) -> Result<Option<Entry>, ApiError> {
        let errors = admit::validate_create(place.kind, value);
        if !errors.is_empty() {
            return Err(ApiError::invalid(place.kind, &place.name, &errors));
        }
        if options.mode == Mode::DryRun {
            return match self.read(place).await {
                Ok(_) => Err(ApiError::already_exists(place.kind, &place.name)),
                Err(error) if error.code == 404 => Ok(None),
                Err(error) => Err(error),
            };
        }
        match self
            .store
            .put(&place.key(), object::encode(value), Expected::Absent)
            .await
        {
            Ok(entry) => Ok(Some(entry)),
            Err(StoreError::Conflict { .. }) => {
                Err(ApiError::already_exists(place.kind, &place.name))
            }
            Err(error) => Err(store_error(error)),
        }
    }

    /// Changes an object by an edit of what is there.
    ///
    /// The edit gets the current object and returns the wanted one. It may run several times.
    ///
    /// # Errors
    ///
    /// 404 if there is none, 409 where the edit insists on another state, 422 with wrong fields.
    pub async fn change(
        &self,
        place: &Place,
        part: Part,
        options: &WriteOptions,
        edit: &(dyn Fn(&Value) -> Result<Value, ApiError> + Sync),
    ) -> Result<Written, ApiError> {
        for _ in 0..ATTEMPTS {
            let current = self.read(place).await?;
            let mut wanted = edit(&current.value)?;
            let warnings = admit::fields(place.kind, &mut wanted, options.validation)?;
            let insists = object::resource_version(&wanted)
                != object::resource_version(&current.value)
                && !object::resource_version(&wanted).is_empty();
            if insists {
                return Err(ApiError::modified(place.kind, &place.name));
            }
            match self.replace(place, part, &current, wanted, options).await {
                Err(Outcome::Changed) => {}
                Err(Outcome::Failed(error)) => return Err(error),
                Ok(object) => {
                    return Ok(Written {
                        object,
                        created: false,
                        warnings,
                    });
                }
            }
        }
        Err(ApiError::modified(place.kind, &place.name))
    }

    /// One attempt to put what is wanted in the place of what is there.
    async fn replace(
        &self,
        place: &Place,
        part: Part,
        current: &Current,
        wanted: Value,
        options: &WriteOptions,
    ) -> Result<Value, Outcome> {
        check_identity(place, &current.value, &wanted)?;
        let mut next = keep_other_half(place.kind, part, &current.value, wanted);
        keep_system_fields(&current.value, &mut next);
        admit::update(place.kind, &current.value, &mut next);
        let allotted = self
            .services
            .allot(self, place, &mut next, Some(&current.value), options.mode)
            .await?;
        let outcome = self
            .store_next(place, part, current, &mut next, options)
            .await;
        match outcome {
            Ok(()) => Ok(next),
            Err(error) => {
                self.services.give_back(self, allotted).await;
                Err(error)
            }
        }
    }

    async fn store_next(
        &self,
        place: &Place,
        part: Part,
        current: &Current,
        next: &mut Value,
        options: &WriteOptions,
    ) -> Result<(), Outcome> {
        // A change of both halves is the server's own: a binding, say, which no client could make
        // by an update and which wants nothing new.
        if part != Part::Both {
            count_generation(place.kind, &current.value, next);
        }
        let mut errors = new_finalizers(&current.value, next);
        if part != Part::Both {
            errors.extend(admit::validate_update(
                place.kind,
                part,
                &current.value,
                next,
            ));
        }
        if !errors.is_empty() {
            return Err(ApiError::invalid(place.kind, &place.name, &errors).into());
        }
        admit::track(place.kind, Some(&current.value), next, options, part);
        if same_but_for_times(&current.value, next) {
            next.clone_from(&current.value);
            return Ok(());
        }
        if options.mode == Mode::DryRun {
            return Ok(());
        }
        let expected = Expected::Revision(current.entry.modified);
        if is_finished(place.kind, next) {
            // The last finalizer of an object that shall be gone was taken away.
            let gone = self.store.delete(&place.key(), expected).await?;
            self.services
                .free(self, place.kind, &current.value, None)
                .await;
            object::set_resource_version(next, gone.modified);
            return Ok(());
        }
        let entry = self
            .store
            .put(&place.key(), object::encode(next), expected)
            .await?;
        self.services
            .free(self, place.kind, &current.value, Some(next))
            .await;
        object::set_resource_version(next, entry.modified);
        Ok(())
    }

    /// New objects need a namespace that exists and is not on its way out.
    async fn check_namespace(&self, place: &Place) -> Result<(), ApiError> {
        if !place.kind.namespaced() {
            return Ok(());
        }
        let namespaces = crate::api::kind::by_plural("", "namespaces")
            .ok_or_else(|| ApiError::internal("no namespaces"))?;
        let home = Place {
            kind: namespaces,
            namespace: String::new(),
            name: place.namespace.clone(),
        };
        let found = self.read(&home).await?;
        if !object::is_deleting(&found.value) {
            return Ok(());
        }
        let why = format!(
            "unable to create new content in namespace {} because it is being terminated",
            home.name
        );
        let mut error = ApiError::forbidden(place.kind, &place.name, &why);
        if let Some(details) = &mut error.details {
            details.causes.push(crate::api::error::Cause {
                reason: "NamespaceTerminating".into(),
                message: format!("namespace {} is being terminated", home.name),
                field: "metadata.namespace".into(),
            });
        }
        Err(error)
    }
}

/// Why a write did not happen.
pub enum Outcome {
    /// Somebody else was first: read again.
    Changed,
    /// It cannot happen.
    Failed(ApiError),
}

impl From<ApiError> for Outcome {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

impl From<StoreError> for Outcome {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict { .. } | StoreError::NotFound { .. } => Self::Changed,
            error => Self::Failed(store_error(error)),
        }
    }
}

/// Whether a deletion that was asked for has nothing left to wait for.
#[must_use]
pub fn is_finished(kind: &Kind, value: &Value) -> bool {
    let grace_is_over = value["metadata"]["deletionGracePeriodSeconds"]
        .as_i64()
        .unwrap_or(0)
        == 0;
    let content_is_gone = kind.kind != "Namespace"
        || value["spec"]["finalizers"]
            .as_array()
            .is_none_or(Vec::is_empty);
    object::is_deleting(value)
        && object::finalizers(value).is_empty()
        && grace_is_over
        && content_is_gone
}

/// Settles the name and namespace of a new object; returns the base of a name that the server made.
fn name_new_object(place: &mut Place, value: &mut Value) -> Result<Option<String>, ApiError> {
    match object::namespace(value) {
        "" if place.kind.namespaced() => {
            object::set_meta(value, "namespace", place.namespace.clone())
        }
        found if found != place.namespace => {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        _ => {}
    }
    if !object::resource_version(value).is_empty() {
        return Err(ApiError::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    let mut generated = None;
    if object::name(value).is_empty() {
        let base = object::meta_text(value, "generateName").to_owned();
        if base.is_empty() && !place.name.is_empty() {
            object::set_meta(value, "name", place.name.clone());
        } else if base.is_empty() {
            let why = "name or generateName is required";
            return Err(ApiError::invalid(
                place.kind,
                "",
                &[FieldError::required("metadata.name", why)],
            ));
        } else {
            let end = base
                .char_indices()
                .map(|(at, _)| at)
                .find(|at| *at >= GENERATED_BASE_LIMIT);
            let base = base[..end.unwrap_or(base.len())].to_owned();
            object::set_meta(value, "name", format!("{base}{}", object::random_suffix()));
            generated = Some(base);
        }
    }
    if !place.name.is_empty() && place.name != object::name(value) {
        return Err(wrong_name(object::name(value), &place.name));
    }
    object::name(value).clone_into(&mut place.name);
    Ok(generated)
}

fn wrong_name(body: &str, path: &str) -> ApiError {
    ApiError::bad_request(format!(
        "the name of the object ({body}) does not match the name on the URL ({path})"
    ))
}

/// What the server alone decides, for a new object.
fn reset_system_fields(kind: &Kind, value: &mut Value) {
    for field in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "generation",
    ] {
        object::remove_meta(value, field);
    }
    object::set_meta(value, "uid", create_uid());
    object::set_meta(value, "creationTimestamp", object::now_text());
    if counts_generations(kind) {
        object::set_meta(value, "generation", 1);
    }
    defaults::begin_status(kind, value);
    if kind.kind == "Namespace" {
        if !value["spec"].is_object() {
            value["spec"] = Value::Object(Map::new());
        }
        value["spec"]["finalizers"] = json!(["kubernetes"]);
    }
}

/// The kinds whose `metadata.generation` rises when what is wanted changes.
fn counts_generations(kind: &Kind) -> bool {
    matches!(
        kind.kind,
        "Pod"
            | "Deployment"
            | "ReplicaSet"
            | "DaemonSet"
            | "Job"
            | "CronJob"
            | "PodDisruptionBudget"
            | "EndpointSlice"
            | "PriorityClass"
    )
}

fn check_identity(place: &Place, current: &Value, wanted: &Value) -> Result<(), ApiError> {
    let (name, namespace, uid) = (
        object::name(wanted),
        object::namespace(wanted),
        object::uid(wanted),
    );
    if name != place.name {
        return Err(wrong_name(name, &place.name));
    }
    if !namespace.is_empty() && namespace != place.namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let current_uid = object::uid(current);
    if !uid.is_empty() && uid != current_uid {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {current_uid}"
        );
        return Err(ApiError::conflict(place.kind, &place.name, &why));
    }
    Ok(())
}

/// The wanted object with the half that this update is not about as it was.
fn keep_other_half(kind: &Kind, part: Part, current: &Value, wanted: Value) -> Value {
    match part {
        Part::Both => wanted,
        Part::Wanted if kind.has(Subresource::Status) => {
            let mut next = wanted;
            copy_field(current, &mut next, "status");
            if kind.kind == "Namespace" {
                if !next["spec"].is_object() {
                    next["spec"] = Value::Object(Map::new());
                }
                next["spec"]["finalizers"] = current["spec"]["finalizers"].clone();
            }
            next
        }
        Part::Wanted => wanted,
        Part::Resize => {
            let mut next = current.clone();
            for list in ["containers", "initContainers"] {
                copy_resources(&wanted["spec"][list], &mut next["spec"], list);
            }
            object::copy_meta(&wanted, &mut next, "managedFields");
            next
        }
        Part::Status => {
            let mut next = current.clone();
            copy_field(&wanted, &mut next, "status");
            if matches!(kind.kind, "Pod" | "Node") {
                object::copy_meta(&wanted, &mut next, "labels");
                object::copy_meta(&wanted, &mut next, "annotations");
            }
            // Server-side apply keeps its account of fields in the object that it returns.
            object::copy_meta(&wanted, &mut next, "managedFields");
            next
        }
    }
}

/// Gives each container the resources that the one of its name has in `from`.
fn copy_resources(from: &Value, spec: &mut Value, list: &str) {
    let containers = spec.get_mut(list).and_then(Value::as_array_mut);
    for container in containers.into_iter().flatten() {
        let mut wanted = from.as_array().into_iter().flatten();
        if let Some(wanted) = wanted.find(|one| one["name"] == container["name"]) {
            copy_field(wanted, container, "resources");
        }
    }
}

fn copy_field(from: &Value, to: &mut Value, field: &str) {
    let Some(object) = to.as_object_mut() else {
        return;
    };
    match from.get(field) {
        Some(value) if !value.is_null() => object.insert(field.to_owned(), value.clone()),
        _ => object.remove(field),
    };
}

/// What no update changes.
fn keep_system_fields(current: &Value, next: &mut Value) {
    let kept = [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "selfLink",
        "resourceVersion",
    ];
    for field in kept {
        object::copy_meta(current, next, field);
    }
    copy_field(current, next, "apiVersion");
    copy_field(current, next, "kind");
}

fn count_generation(kind: &Kind, current: &Value, next: &mut Value) {
    if !counts_generations(kind) {
        return;
    }
    let wants = |value: &Value| -> Value {
        let mut rest = value.clone();
        if let Some(object) = rest.as_object_mut() {
            object.remove("status");
            object.remove("metadata");
        }
        // Kubernetes counts annotations of deployments in: revisions of rollouts are kept in them.
        let annotations = if kind.kind == "Deployment" {
            value["metadata"]["annotations"].clone()
        } else {
            Value::Null
        };
        json!([rest, annotations])
    };
    if wants(current) != wants(next) {
        let generation = current["metadata"]["generation"].as_i64().unwrap_or(0);
        object::set_meta(next, "generation", generation + 1);
    }
}

/// An object on its way out takes no new finalizers, or it might never go.
fn new_finalizers(current: &Value, next: &Value) -> Vec<FieldError> {
    if !object::is_deleting(current) {
        return Vec::new();
    }
    let before = object::finalizers(current);
    let added: Vec<_> = object::finalizers(next)
        .into_iter()
        .filter(|one| !before.contains(one))
        .collect();
    if added.is_empty() {
        return Vec::new();
    }
    let why = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
    );
    vec![FieldError::forbidden("metadata.finalizers", &why)]
}

/// Whether a write would change nothing but the times in the account of who wrote what.
fn same_but_for_times(current: &Value, next: &Value) -> bool {
    let without_times = |value: &Value| {
        let mut value = value.clone();
        for entry in value["metadata"]["managedFields"]
            .as_array_mut()
            .into_iter()
            .flatten()
        {
            if let Some(entry) = entry.as_object_mut() {
                entry.remove("time");
            }
        }
        value
    };
    let (current, next) = (without_times(current), without_times(next));
    current == next
}
