//! A timer for deadlines that move all the time and are hardly ever reached.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Longest deadline that is kept; later ones are looked at again then.
const FAR: Duration = Duration::from_hours(24);

/// Wakes its task at a deadline. A deadline that moves back costs nothing: the timer goes off early, looks, and is set anew.
pub struct Alarm {
    sleep: Pin<Box<Sleep>>,
}

impl Alarm {
    /// An alarm that has no deadline yet.
    pub fn new() -> Alarm {
        Alarm { sleep: Box::pin(sleep_until(Instant::now() + FAR)) }
    }

    /// Is the deadline over?
    pub fn poll(&mut self, context: &mut Context<'_>, deadline: Option<Instant>) -> Poll<()> {
        let Some(deadline) = deadline else { return Poll::Pending };
        if self.sleep.deadline() > deadline {
            self.sleep.as_mut().reset(deadline);
        }
        while self.sleep.as_mut().poll(context).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}
