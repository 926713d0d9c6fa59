//! The run: in each round everybody takes a turn at each operation, in an order that rotates.

use anyhow::Result;

use crate::Arguments;
use crate::child::Contender;
use crate::database::Database;
use crate::op::Op;
use crate::reference;
use crate::results::Results;
use crate::work::Turn;

/// Who is next.
#[derive(Clone, Copy)]
enum Next {
    Contender(usize),
    Pgbench,
    Copy,
}

pub async fn run(arguments: &Arguments, database: &Database) -> Result<Results> {
    let url = database.url();
    let competitors = arguments.competitors();
    for competitor in &competitors {
        eprintln!("checking the answers of {}", competitor.title());
        // Not the process that is measured: its memory is to be that of the turns.
        Contender::start(*competitor, &url)?.check()?;
        database.reset().await?;
    }
    let mut contenders = competitors
        .iter()
        .map(|competitor| Contender::start(*competitor, &url))
        .collect::<Result<Vec<_>>>()?;
    let mut results = Results::default();
    let mut number = 0;
    for round in 0..arguments.rounds {
        let mut block = 0;
        for op in arguments.ops() {
            let tasks: &[usize] = match op.many() {
                Some(_) => &[1],
                None => &arguments.tasks,
            };
            for &tasks in tasks {
                let rounds = arguments.rounds;
                eprintln!("round {} of {rounds}: {}, {tasks}", round + 1, op.title());
                let mut order = order(&contenders, op, tasks);
                if order.is_empty() {
                    continue;
                }
                rotate(&mut order, round, block);
                for next in order {
                    number += 1;
                    let turn = Turn {
                        op,
                        tasks,
                        seconds: arguments.seconds,
                        number,
                    };
                    let server = &database.server;
                    let (title, sample) = match next {
                        Next::Contender(index) => {
                            let contender = &mut contenders[index];
                            (contender.competitor.title(), contender.turn(&turn)?)
                        }
                        Next::Pgbench => {
                            let sample = reference::pgbench(server, tasks, arguments.seconds)?;
                            (reference::PGBENCH, sample)
                        }
                        Next::Copy => {
                            let cars = op.many().unwrap_or(0);
                            (reference::COPY, reference::copy(server, cars, number)?)
                        }
                    };
                    results.add(op, tasks, title, round, sample);
                }
                if op.writes() {
                    database.reset().await?;
                }
                block += 1;
            }
        }
    }
    Ok(results)
}

/// Lets somebody else begin in each round. `block` counts within the round: what counted through the
/// whole run would rotate by the length of a round too, which may be a whole number of turns.
fn rotate<T>(order: &mut [T], round: usize, block: usize) {
    let first = (round + block) % order.len();
    order.rotate_left(first);
}

fn order(contenders: &[Contender], op: Op, tasks: usize) -> Vec<Next> {
    let mut order: Vec<Next> = (0..contenders.len())
        .filter(|index| contenders[*index].competitor.does(op))
        .map(Next::Contender)
        .collect();
    if op == Op::Hit && reference::CLIENTS.contains(&tasks) {
        order.push(Next::Pgbench);
    }
    if op.many().is_some() {
        order.push(Next::Copy);
    }
    order
}

#[cfg(test)]
mod tests {
    #[test]
    fn everybody_begins_equally_often() {
        for people in 1..=11_usize {
            for block in 0..40 {
                let mut firsts: Vec<usize> = (0..people)
                    .map(|round| {
                        let mut order: Vec<usize> = (0..people).collect();
                        super::rotate(&mut order, round, block);
                        order[0]
                    })
                    .collect();
                firsts.sort_unstable();
                assert!(firsts.into_iter().eq(0..people), "{people}, block {block}");
            }
        }
    }
}
