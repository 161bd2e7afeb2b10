//! A call's body as it comes in, counted among the bytes in flight.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use super::status;
use crate::http::body::{SMALL, UNIT};

/// A call's share of the bytes in flight; given back when all copies are dropped.
#[derive(Clone, Default)]
pub struct Share(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Share {
    /// A share of these.
    pub fn of(held: Option<OwnedSemaphorePermit>) -> Share {
        Share(Arc::new(Mutex::new(held)))
    }

    /// What it holds.
    pub fn take(&self) -> Option<OwnedSemaphorePermit> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn add(&self, more: OwnedSemaphorePermit) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match held.as_mut() {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
    }
}

/// A body whose bytes are counted as they arrive: one that does not fit beside the others is
/// refused, and holds nobody up.
pub struct Intake {
    body: Incoming,
    came: usize,
    counted: usize,
    in_flight: Arc<Semaphore>,
    share: Share,
}

impl Intake {
    /// A body, and where its bytes are counted.
    pub fn new(body: Incoming, in_flight: Arc<Semaphore>, share: Share) -> Intake {
        Intake {
            body,
            came: 0,
            counted: 0,
            in_flight,
            share,
        }
    }

    fn count(&mut self, bytes: usize) -> Result<(), Box<Status>> {
        self.came += bytes;
        if self.came <= SMALL {
            return Ok(());
        }
        let units = self.came.div_ceil(UNIT) - self.counted;
        let more = u32::try_from(units).unwrap_or(u32::MAX);
        match Arc::clone(&self.in_flight).try_acquire_many_owned(more) {
            Ok(more) => {
                self.share.add(more);
                self.counted += units;
                Ok(())
            }
            Err(_) => Err(Box::new(status::of(
                "overloaded",
                "too many bytes are in flight",
            ))),
        }
    }
}

impl Body for Intake {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(match frame {
            None => None,
            Some(Err(error)) => Some(Err(error.into())),
            Some(Ok(frame)) => {
                let counted = self.count(frame.data_ref().map_or(0, Bytes::len));
                Some(counted.map(|()| frame).map_err(|status| status as _))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
