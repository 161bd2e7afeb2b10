//! Tests that take the operator away from all others, and so run alone. In one module: the harness goes by names, and what runs beside
//! others need not wait for each of them by itself.

mod killed;
mod operator;
mod release;
mod rotating;
