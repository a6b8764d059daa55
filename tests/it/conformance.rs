//! One suite a trait, run on every adapter: what is written in the traits' documentation holds for all of them.

mod objects;
mod queue;
mod state;

/// Makes one module for each adapter, with each test of the suite run on a fresh instance of it.
macro_rules! on_each_adapter {
    ($($adapter:ident),+: $tests:tt) => { $(on_each_adapter!(@one $adapter $tests);)+ };
    (@one $adapter:ident { $($test:ident),+ $(,)? }) => {
        mod $adapter {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::adapters::$adapter().await).await;
            })+
        }
    };
}
use on_each_adapter;
