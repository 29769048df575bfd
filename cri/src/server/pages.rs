//! Long lists, a piece at a time.
//!
//! A node with thousands of containers makes a list longer than the 16 MiB that
//! a gRPC message may have. The streaming calls of CRI 0.36 send the same
//! list in pages.

use std::pin::Pin;

use tokio_stream::Stream;
use tonic::{Response, Status};

/// Items of a page: at a few KiB each, far below a message's limit.
const PAGE: usize = 100;

/// A stream of replies.
pub(super) type Pages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Cuts a list into replies. An empty list is one empty reply, so that a reader
/// knows that it was asked for.
pub(super) fn pages<I, T, F>(items: Vec<I>, reply: F) -> Response<Pages<T>>
where
    I: Send + 'static,
    T: Send + 'static,
    F: Fn(Vec<I>) -> T,
{
    let mut replies = Vec::new();
    let mut rest = items.into_iter();
    loop {
        let page: Vec<I> = rest.by_ref().take(PAGE).collect();
        let last = page.len() < PAGE;
        if !page.is_empty() || replies.is_empty() {
            replies.push(Ok(reply(page)));
        }
        if last {
            break;
        }
    }
    Response::new(Box::pin(tokio_stream::iter(replies)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt;

    #[tokio::test]
    async fn nothing_is_lost_between_pages() {
        for count in [0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE] {
            let items: Vec<usize> = (0..count).collect();
            let replies: Vec<_> = pages(items.clone(), |page| page)
                .into_inner()
                .map(Result::unwrap)
                .collect()
                .await;
            assert_eq!(replies.len(), count.div_ceil(PAGE).max(1), "{count}");
            assert_eq!(replies.concat(), items);
        }
    }
}
