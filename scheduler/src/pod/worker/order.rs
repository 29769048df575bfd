//! What the tasks of a pod are told: run, stop by then, stop now.
//!
//! An order only ever gets stricter. It names a moment, not a span, so that
//! `preStop`, the stop signal and the sidecars after them share one grace.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

/// What a task has been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Go on.
    Run,
    /// End in order, by then.
    Stop {
        /// When SIGKILL comes.
        by: Instant,
    },
    /// The sandbox is gone: end, there is nothing left to be stopped in order.
    Abandon,
    /// End at once.
    Kill,
}

impl Order {
    /// How strict an order is.
    fn rank(self) -> u8 {
        match self {
            Order::Run => 0,
            Order::Stop { .. } => 1,
            Order::Abandon => 2,
            Order::Kill => 3,
        }
    }

    /// The time that is left by this order.
    pub fn grace(self) -> Duration {
        match self {
            Order::Stop { by } => by.saturating_duration_since(Instant::now()),
            Order::Run | Order::Abandon | Order::Kill => Duration::ZERO,
        }
    }
}

/// Gives an order to every task that follows; a milder one is not heard.
pub fn give(orders: &watch::Sender<Order>, order: Order) {
    orders.send_if_modified(|current| {
        let stricter = match (*current, order) {
            (Order::Stop { by: old }, Order::Stop { by: new }) => new < old,
            (current, order) => order.rank() > current.rank(),
        };
        if stricter {
            *current = order;
        }
        stricter
    });
}

/// Waits until the order is another than to go on.
pub async fn ended(orders: &mut watch::Receiver<Order>) -> Order {
    let heard = orders.wait_for(|order| *order != Order::Run).await;
    // Whoever gave orders may be gone, and its pod with it.
    heard.map_or(Order::Kill, |order| *order)
}

/// Waits until an order is stricter than the one that is being followed.
pub async fn hastened(orders: &mut watch::Receiver<Order>, followed: Order) -> Order {
    let heard = orders.wait_for(|order| *order != followed).await;
    // Copied out: what the channel lends is a lock.
    let heard = heard.ok().map(|order| *order);
    match heard {
        Some(order) => order,
        // Nobody can give another order: the one that is followed stands.
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::{Order, give};
    use std::time::Duration;
    use tokio::{sync::watch, time::Instant};

    #[test]
    fn orders_only_get_stricter() {
        let now = Instant::now();
        let stop = |seconds| Order::Stop {
            by: now + Duration::from_secs(seconds),
        };
        let all = [Order::Run, stop(9), stop(3), Order::Abandon, Order::Kill];
        for (first, from) in all.iter().enumerate() {
            for (second, to) in all.iter().enumerate() {
                let (orders, heard) = watch::channel(*from);
                give(&orders, *to);
                assert_eq!(*heard.borrow(), all[first.max(second)], "{from:?} {to:?}");
            }
        }
    }
}
