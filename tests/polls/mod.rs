//! Futures that are dropped at a chosen poll.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use motorpool::Result;

pub type Work = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// When a future is dropped.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// After so many polls, each of which follows a wake.
    pub polls: usize,
    /// At once after the last of them, or when the next wake has come.
    pub at_once: bool,
    /// However few polls it had, after so long.
    pub patience: Duration,
}

/// How it ended.
#[derive(Debug)]
pub enum Ended {
    Done(Result<()>),
    Dropped {
        polls: usize,
    },
    /// Dropped while it waited for something that did not come.
    Stuck,
}

struct Woken {
    flag: AtomicBool,
    task: Waker,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.flag.store(true, SeqCst);
        self.task.wake_by_ref();
    }
}

/// Polls a call by the plan.
pub async fn polled(mut work: Work, plan: Plan) -> Ended {
    let mut stuck = pin!(tokio::time::sleep(plan.patience));
    let mut woken: Option<Arc<Woken>> = None;
    let mut polls = 0;
    poll_fn(|cx| {
        let woken = woken.get_or_insert_with(|| {
            Arc::new(Woken {
                flag: AtomicBool::new(true),
                task: cx.waker().clone(),
            })
        });
        loop {
            let due = woken.flag.swap(false, SeqCst);
            if polls >= plan.polls && (due || plan.at_once) {
                return Poll::Ready(Ended::Dropped { polls });
            }
            if !due {
                return stuck.as_mut().poll(cx).map(|()| Ended::Stuck);
            }
            polls += 1;
            let waker = Waker::from(Arc::clone(woken));
            if let Poll::Ready(result) = work.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Poll::Ready(Ended::Done(result));
            }
        }
    })
    .await
}
