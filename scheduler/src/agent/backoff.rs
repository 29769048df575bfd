//! Waits between attempts: longer with each failure, never the same on two nodes.

use std::time::Duration;

use rand::RngExt;

/// Waits that grow.
#[derive(Debug, Clone)]
pub struct Waits {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Waits {
    /// Begins with the first, ends with the longest.
    pub fn new((first, longest): (Duration, Duration)) -> Waits {
        Waits {
            first,
            longest,
            next: first,
        }
    }

    /// The next wait: a random half of it is taken off, so that a thousand agents
    /// whose server came back do not all ask in the same moment.
    pub fn draw(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        wait.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Waits.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.draw()).await;
    }

    /// Begins again, after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::Waits;
    use std::time::Duration;

    #[test]
    fn waits_grow_to_the_longest_and_begin_again() {
        let second = Duration::from_secs(1);
        let mut waits = Waits::new((second, second * 3));
        for whole in [1, 2, 3, 3] {
            let wait = waits.draw();
            assert!(
                wait >= second * whole / 2 && wait <= second * whole,
                "{wait:?}"
            );
        }
        waits.reset();
        assert!(waits.draw() <= second);
    }
}
