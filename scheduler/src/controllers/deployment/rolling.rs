//! How many pods of each set a rolling update wants.
//!
//! ```text
//!            replicas + maxSurge  ─────────── never more pods than this
//!                     replicas    ───────────
//!    replicas − maxUnavailable    ─────────── never fewer available than this
//! ```
//!
//! A look first grows the new set into what the upper line leaves, and then shrinks
//! the old ones: their pods that are not available first, because nobody misses
//! them, and then as many available ones as the lower line allows. All is counted
//! in what the sets *want*, not in what they have, so that a set that is slow to
//! create or delete cannot be asked twice.

use std::sync::Arc;

use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::revision::{self, age_key};

/// Both lines of a Deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// How many are wanted.
    pub replicas: i32,
    /// How many more there may be.
    pub surge: i32,
    /// How many of them may be unavailable.
    pub unavailable: i32,
}

impl Bounds {
    /// The bounds of a Deployment; Recreate has no surge.
    pub fn of(deployment: &Deployment) -> Bounds {
        let replicas = deployment.spec.replicas.unwrap_or(1).max(0);
        if is_recreate(deployment) {
            return Bounds {
                replicas,
                surge: 0,
                unavailable: replicas,
            };
        }
        let strategy = deployment.spec.strategy.as_ref();
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref());
        let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let surge = resolve(surge, "25%", replicas, Round::Up);
        let unavailable = resolve(unavailable, "25%", replicas, Round::Down);
        Bounds {
            replicas,
            surge,
            // With neither nothing could ever move. It may be rounding that made
            // them so: then one pod less is what was meant.
            unavailable: match (surge, unavailable) {
                (0, 0) => 1.min(replicas),
                (_, unavailable) => unavailable.min(replicas),
            },
        }
    }

    /// Never more pods than this.
    pub fn maximum(self) -> i32 {
        match self.replicas {
            0 => 0,
            replicas => replicas.saturating_add(self.surge),
        }
    }

    /// Never fewer available than this.
    pub fn minimum(self) -> i32 {
        self.replicas - self.unavailable
    }
}

/// Whether all old pods go before the first new one comes.
pub fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.strategy.as_ref();
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

/// Where a percentage's rest goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// To the next whole pod.
    Up,
    /// Away.
    Down,
}

/// A number of pods, or a percentage of `of`; `default` where none is given, or
/// where it is neither.
pub fn resolve(value: Option<&IntOrString>, default: &str, of: i32, round: Round) -> i32 {
    let percent = |text: &str| -> Option<i32> {
        let percent: i64 = text.strip_suffix('%')?.trim().parse().ok()?;
        let product = percent.checked_mul(i64::from(of))?;
        let whole = match round {
            Round::Up => product.div_euclid(100) + i64::from(product.rem_euclid(100) > 0),
            Round::Down => product.div_euclid(100),
        };
        i32::try_from(whole).ok()
    };
    let resolved = match value {
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(text)) => percent(text),
        None => None,
    };
    resolved.or_else(|| percent(default)).unwrap_or(0).max(0)
}

/// How many replicas each set shall want: the new one, and the old ones by index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbers {
    /// Of the new set.
    pub new: i32,
    /// Of the old sets.
    pub old: Vec<i32>,
}

/// What a set wants.
pub fn wants(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1).max(0)
}

/// How many pods a set has or will have: those that it is to delete are there
/// until it did.
pub fn occupies(set: &ReplicaSet) -> i32 {
    let has = set.status.as_ref().map_or(0, |status| status.replicas);
    wants(set).max(has)
}

/// Whether a set's status is by the numbers that it has now.
pub fn is_observed(set: &ReplicaSet) -> bool {
    let status = set.status.as_ref();
    let observed = status.and_then(|status| status.observed_generation);
    observed.unwrap_or(0) >= set.metadata.generation.unwrap_or(0)
}

fn available(set: &ReplicaSet) -> i32 {
    let status = set.status.as_ref();
    let available = status.and_then(|status| status.available_replicas);
    available.unwrap_or(0).min(wants(set))
}

/// One step of a rolling update.
pub fn plan_rolling(bounds: Bounds, new: &ReplicaSet, old: &[Arc<ReplicaSet>]) -> Numbers {
    let grown = plan_new(
        bounds,
        wants(new),
        old.iter().map(|set| occupies(set)).sum(),
    );
    let mut numbers: Vec<i32> = old.iter().map(|set| wants(set)).collect();
    // Growing and shrinking in one look would count the new pods twice: as room
    // that was used, and as company that is not there yet. And whoever shrinks by a
    // status older than the numbers counts pods that are gone.
    let current = is_observed(new) && old.iter().all(|set| is_observed(set));
    if grown == wants(new) && current {
        shrink_old(bounds, new, old, &mut numbers);
    }
    Numbers {
        new: grown,
        old: numbers,
    }
}

/// How many replicas the new set may have.
pub fn plan_new(bounds: Bounds, new: i32, old: i32) -> i32 {
    if new > bounds.replicas {
        return bounds.replicas;
    }
    let room = (bounds.maximum() - new - old).max(0);
    new + room.min(bounds.replicas - new)
}

fn shrink_old(bounds: Bounds, new: &ReplicaSet, old: &[Arc<ReplicaSet>], numbers: &mut [i32]) {
    let all: i32 = wants(new) + numbers.iter().sum::<i32>();
    // What the new set was promised and does not have yet cannot stand in for an
    // old pod.
    let missing = wants(new) - available(new);
    let mut may_go = (all - bounds.minimum() - missing).max(0);
    // Pods that serve nobody first: they cost nothing but their place.
    let mut by_age: Vec<usize> = (0..old.len()).collect();
    by_age.sort_by_key(|at| age_key(&old[*at]));
    for &at in &by_age {
        let idle = (numbers[at] - available(&old[at])).max(0).min(may_go);
        numbers[at] -= idle;
        may_go -= idle;
    }
    let serving: i32 = available(new) + old.iter().map(|set| available(set)).sum::<i32>();
    let mut may_go = (serving - bounds.minimum()).max(0).min(may_go);
    for &at in &by_age {
        let gone = numbers[at].min(may_go);
        numbers[at] -= gone;
        may_go -= gone;
    }
}

/// How a Deployment that was scaled in the middle of a rollout, or while paused,
/// spreads the difference: each set by its share, so that what works and what may
/// not are in the same proportion as before.
///
/// The sets are `sets`, and what is returned are their numbers. What rounding
/// leaves goes to the largest.
pub fn plan_proportional(bounds: Bounds, sets: &[Arc<ReplicaSet>]) -> Vec<i32> {
    let now: Vec<i32> = sets.iter().map(|set| wants(set)).collect();
    let sum: i32 = now.iter().sum();
    let allowed = bounds.maximum();
    let to_add = allowed - sum;
    if sum == 0 || to_add == 0 {
        return now;
    }
    let mut order: Vec<usize> = (0..sets.len()).filter(|at| now[*at] > 0).collect();
    // The largest first; of equals the newest when growing, the oldest when
    // shrinking.
    order.sort_by(|&a, &b| {
        let by_age = age_key(&sets[a]).cmp(&age_key(&sets[b]));
        let by_age = if to_add > 0 { by_age.reverse() } else { by_age };
        now[b].cmp(&now[a]).then(by_age)
    });
    let mut numbers = now.clone();
    let mut left = to_add;
    for &at in &order {
        let share = share(&sets[at], bounds, sum);
        let share = match to_add > 0 {
            true => share.clamp(0, left.max(0)),
            false => share.clamp(left.min(0), 0),
        };
        numbers[at] = (now[at] + share).max(0);
        left -= numbers[at] - now[at];
    }
    if let Some(&largest) = order.first() {
        numbers[largest] = (numbers[largest] + left).max(0);
    }
    numbers
}

/// How much a set changes, by the scale at which it was last set.
fn share(set: &ReplicaSet, bounds: Bounds, sum: i32) -> i32 {
    let number = f64::from(wants(set));
    let before = revision::number(&set.metadata, revision::MAXIMUM)
        .and_then(|maximum| i32::try_from(maximum).ok())
        .filter(|maximum| *maximum > 0)
        .unwrap_or(sum);
    let scaled = number * f64::from(bounds.maximum()) / f64::from(before);
    // At most the range of i32: both factors are replicas.
    #[allow(clippy::cast_possible_truncation)]
    let scaled = scaled.round() as i32;
    scaled - wants(set)
}

#[cfg(test)]
mod tests;
