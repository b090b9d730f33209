//! How far to read at once on the way through the orders by their creation.

use std::time::Duration;

use gozon_store::Result;
use tokio::time::Instant;

/// A stretch that is read sooner than this is followed by one twice as long,
const QUICK: Duration = Duration::from_millis(100);
/// up to this one.
const LONGEST: Duration = Duration::from_hours(6);
/// One that takes longer than this is followed by the shortest.
const SLOW: Duration = Duration::from_secs(1);

/// The length of the next stretch. All orders of a stretch are read, the settled ones too, so it must
/// not be long where there are many. But each look also reads the newest pages, which PostgreSQL's
/// index of page ranges does not know yet: many short looks at hours without orders would read those
/// again and again.
#[derive(Debug)]
pub(crate) struct Stretch {
    shortest: Duration,
    length: Duration,
}

impl Stretch {
    pub(crate) fn new(shortest: Duration) -> Self {
        Self { shortest, length: shortest }
    }

    pub(crate) fn length(&self) -> Duration {
        self.length
    }

    /// Reads a stretch, and takes note of how long that takes.
    pub(crate) async fn read<T>(&mut self, reading: impl Future<Output = Result<T>>) -> Result<T> {
        let started = Instant::now();
        let found = reading.await;
        self.took(found.is_ok().then(|| started.elapsed()));
        found
    }

    /// `None` if it could not be read.
    fn took(&mut self, took: Option<Duration>) {
        self.length = match took {
            Some(took) if took < QUICK => (self.length * 2).min(LONGEST),
            Some(took) if took < SLOW => self.length,
            _ => self.shortest,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_grows_while_it_is_quick_and_shrinks_when_it_is_slow() {
        let minutes = Duration::from_mins;
        let mut stretch = Stretch::new(minutes(5));
        let mut looks = 0;
        let mut read = Duration::ZERO;
        while read < Duration::from_hours(24) {
            read += stretch.length();
            stretch.took(Some(Duration::from_millis(2)));
            looks += 1;
        }
        assert_eq!((looks, stretch.length()), (10, LONGEST));
        stretch.took(Some(QUICK));
        assert_eq!(stretch.length(), LONGEST);
        stretch.took(Some(SLOW));
        assert_eq!(stretch.length(), minutes(5));
        stretch.took(Some(Duration::ZERO));
        assert_eq!(stretch.length(), minutes(10));
        // A statement that takes too long is ended by the server, and must not be tried again as it is.
        stretch.took(None);
        assert_eq!(stretch.length(), minutes(5));
    }
}
