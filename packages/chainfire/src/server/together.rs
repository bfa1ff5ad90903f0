//! Questions that share a call: what is asked while one is under way goes together in the next.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tonic::Status;

use super::refusal;

/// The most ids in one call, but for one question that has more.
const MOST: usize = 4096;

/// A line of questions, each about some ids and answered with as many values.
pub(crate) struct Together<T> {
    line: Mutex<Line<T>>,
}

struct Line<T> {
    waiting: VecDeque<Question<T>>,
    under_way: bool,
}

struct Question<T> {
    ids: Vec<i64>,
    answer: oneshot::Sender<Result<Vec<T>, Status>>,
}

impl<T> Default for Together<T> {
    fn default() -> Self {
        Self { line: Mutex::new(Line { waiting: VecDeque::new(), under_way: false }) }
    }
}

impl<T: Send + 'static> Together<T> {
    /// One value for each id, by `call` or by one that is made for an earlier question. It begins
    /// after the question was asked.
    ///
    /// # Errors
    /// Those of the call; it gets no more than it asked for.
    pub(crate) async fn ask<F>(
        self: &Arc<Self>,
        ids: Vec<i64>,
        call: impl Fn(Vec<i64>) -> F + Send + 'static,
    ) -> Result<Vec<T>, Status>
    where
        F: Future<Output = Result<Vec<T>, Status>> + Send,
    {
        let (answer, answered) = oneshot::channel();
        let begins = {
            let mut line = self.line.lock();
            line.waiting.push_back(Question { ids, answer });
            !std::mem::replace(&mut line.under_way, true)
        };
        if begins {
            // A task of its own: whoever asked first may go away while others wait.
            let line = self.clone();
            tokio::spawn(async move {
                while let Some(questions) = line.next() {
                    let ids = questions.iter().flat_map(|question| &question.ids).copied();
                    let values = call(ids.collect()).await;
                    share(questions, values);
                }
            });
        }
        answered.await.unwrap_or_else(|_| Err(Status::from(&refusal::STOPPED)))
    }

    /// What goes into the next call; the line is at rest if there is nothing.
    fn next(&self) -> Option<Vec<Question<T>>> {
        let mut line = self.line.lock();
        let mut ids = 0;
        let mut taken = Vec::new();
        while let Some(question) = line.waiting.front() {
            ids += question.ids.len();
            if ids > MOST && !taken.is_empty() {
                break;
            }
            taken.extend(line.waiting.pop_front().filter(|question| !question.answer.is_closed()));
        }
        line.under_way = !taken.is_empty();
        line.under_way.then_some(taken)
    }
}

fn share<T>(questions: Vec<Question<T>>, values: Result<Vec<T>, Status>) {
    match values {
        Ok(values) => {
            let mut values = values.into_iter();
            for question in questions {
                let own: Vec<T> = values.by_ref().take(question.ids.len()).collect();
                let whole = own.len() == question.ids.len();
                let own = if whole { Ok(own) } else { Err(Status::from(&refusal::MISMATCH)) };
                let _ = question.answer.send(own);
            }
        }
        Err(error) => {
            for question in questions {
                let _ = question.answer.send(Err(error.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    /// A line whose calls the test answers.
    struct Answered {
        line: Arc<Together<i64>>,
        calls: mpsc::UnboundedSender<Call>,
    }

    type Call = (Vec<i64>, oneshot::Sender<Result<Vec<i64>, Status>>);

    impl Answered {
        fn new() -> (Answered, mpsc::UnboundedReceiver<Call>) {
            let (calls, made) = mpsc::unbounded_channel();
            (Answered { line: Arc::default(), calls }, made)
        }

        fn ask(&self, ids: &[i64]) -> tokio::task::JoinHandle<Result<Vec<i64>, Status>> {
            let (line, calls, ids) = (self.line.clone(), self.calls.clone(), ids.to_vec());
            tokio::spawn(async move {
                let call = move |ids| {
                    let calls = calls.clone();
                    async move {
                        let (answer, answered) = oneshot::channel();
                        calls.send((ids, answer)).unwrap();
                        answered.await.unwrap()
                    }
                };
                line.ask(ids, call).await
            })
        }

        async fn waits(&self, questions: usize) {
            while self.line.line.lock().waiting.len() != questions {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn what_is_asked_during_a_call_shares_the_next() {
        let (line, mut made) = Answered::new();
        let first = line.ask(&[1]);
        let (ids, answer) = made.recv().await.unwrap();
        assert_eq!(ids, [1]);
        let second = line.ask(&[2, 3]);
        line.waits(1).await;
        let third = line.ask(&[4]);
        line.waits(2).await;
        // Whoever does not wait any more is not asked for.
        let gone = line.ask(&[5]);
        line.waits(3).await;
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        answer.send(Ok(vec![10])).unwrap();
        assert_eq!(first.await.unwrap().unwrap(), [10]);
        let (ids, answer) = made.recv().await.unwrap();
        assert_eq!(ids, [2, 3, 4]);
        answer.send(Ok(vec![20, 30, 40])).unwrap();
        assert_eq!(second.await.unwrap().unwrap(), [20, 30]);
        assert_eq!(third.await.unwrap().unwrap(), [40]);
        // At rest, the line begins again.
        let again = line.ask(&[6]);
        let (ids, answer) = made.recv().await.unwrap();
        assert_eq!(ids, [6]);
        answer.send(Err(Status::unavailable("no leader"))).unwrap();
        assert_eq!(again.await.unwrap().unwrap_err().message(), "no leader");
    }

    #[tokio::test]
    async fn one_who_leaves_does_not_end_the_call_of_others() {
        let (line, mut made) = Answered::new();
        let first = line.ask(&[1]);
        let (_, answer) = made.recv().await.unwrap();
        let second = line.ask(&[2]);
        line.waits(1).await;
        first.abort();
        answer.send(Ok(vec![10])).unwrap();
        let (ids, answer) = made.recv().await.unwrap();
        assert_eq!(ids, [2]);
        // An answer with too few values is nobody's.
        answer.send(Ok(vec![])).unwrap();
        second.await.unwrap().unwrap_err();
    }

    #[tokio::test]
    async fn a_call_has_its_limit() {
        let (line, mut made) = Answered::new();
        let first = line.ask(&[0]);
        let (_, answer) = made.recv().await.unwrap();
        let many: Vec<i64> = (0..MOST as i64).collect();
        let second = line.ask(&many);
        line.waits(1).await;
        let third = line.ask(&[7]);
        line.waits(2).await;
        answer.send(Ok(vec![0])).unwrap();
        first.await.unwrap().unwrap();
        let (ids, answer) = made.recv().await.unwrap();
        assert_eq!(ids.len(), MOST);
        answer.send(Ok(ids)).unwrap();
        let (ids, answer) = made.recv().await.unwrap();
        assert_eq!(ids, [7]);
        answer.send(Ok(ids)).unwrap();
        assert_eq!(second.await.unwrap().unwrap().len(), MOST);
        assert_eq!(third.await.unwrap().unwrap(), [7]);
    }
}
