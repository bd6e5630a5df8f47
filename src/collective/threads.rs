//! Ranks that are threads of one process and meet in its memory.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::collective::transport::{Message, Transport, Watch};
use crate::error::{Error, Result};

/// One rank's side of a meeting of threads.
pub struct Threads {
    rank: usize,
    meeting: Arc<Meeting>,
}

/// Where the threads meet.
struct Meeting {
    size: usize,
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Default)]
struct State {
    /// Messages on their way, by sender and receiver.
    boxes: Vec<VecDeque<Message>>,
    /// Ranks that will not come any more.
    left: Vec<bool>,
    /// Why the run ends.
    aborted: Option<String>,
}

impl Threads {
    /// The sides of a meeting of `size` ranks, one for each thread.
    pub fn meeting(size: usize) -> Vec<Self> {
        let boxes = (0..size * size).map(|_| VecDeque::new()).collect();
        let state = State { boxes, left: vec![false; size], aborted: None };
        let meeting = Arc::new(Meeting { size, state: Mutex::new(state), news: Condvar::new() });
        (0..size).map(|rank| Self { rank, meeting: meeting.clone() }).collect()
    }
}

impl Meeting {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transport for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.meeting.size
    }

    fn exchange(&mut self, messages: Vec<Message>, watch: &Watch) -> Result<Vec<Message>> {
        let size = self.meeting.size;
        let mut state = self.meeting.lock();
        for (to, message) in messages.into_iter().enumerate() {
            state.boxes[self.rank * size + to].push_back(message);
        }
        self.meeting.news.notify_all();
        let mut got: Vec<Option<Message>> = vec![None; size];
        let since = Instant::now();
        loop {
            if let Some(why) = &state.aborted {
                return Err(Error::Elsewhere(why.clone()));
            }
            for (from, got) in got.iter_mut().enumerate().filter(|(_, got)| got.is_none()) {
                *got = state.boxes[from * size + self.rank].pop_front();
            }
            if got.iter().all(Option::is_some) {
                return Ok(got.into_iter().flatten().collect());
            }
            let missing = || (0..size).filter(|from| got[*from].is_none()).collect::<Vec<_>>();
            if let Some(gone) = missing().into_iter().find(|from| state.left[*from]) {
                return Err(Error::Elsewhere(format!("{} has ended", watch.name(gone))));
            }
            watch.look(since, missing)?;
            let waiting = self.meeting.news.wait_timeout(state, Watch::EVERY);
            state = waiting.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn abort(&mut self, why: &str) {
        self.meeting.lock().aborted.get_or_insert_with(|| why.to_string());
        self.meeting.news.notify_all();
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.meeting.lock().left[self.rank] = true;
        self.meeting.news.notify_all();
    }
}
