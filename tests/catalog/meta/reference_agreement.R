# Freezes what R says about agreement and sample size into reference_agreement.json.
# Run once, from this folder: Rscript reference_agreement.R   (Debian: r-base r-cran-clubsandwich r-cran-jsonlite)
# Nothing here follows the formulas of agreement.py where R has a way of its own: Deming lines come from principal
# components of rescaled data, rank correlations from cor.test, the clustered mean from clubSandwich, power from
# power.t.test and, for equivalence, from integration over the chi distribution.
suppressMessages({library(clubSandwich); library(jsonlite)})

# Peak expiratory flow of 17 people by two meters: Bland & Altman (1986), table 1, first readings.
wright <- c(494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427)
mini <- c(512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451)
# Effects of a kind with those at hand, in papers of one to three claims, with a tie.
reported <- c(-.30, -.12, -.07, -.45, -.22, -.22, -.55, -.10, -.18, -.35, -.62, -.05)
measured <- c(-.25, -.15, .02, -.52, -.10, -.31, -.40, -.08, .01, -.29, -.70, -.11)
paper <- c("a", "a", "b", "c", "c", "c", "d", "e", "f", "f", "g", "h")

deming <- function(x, y, ratio) {
  axis <- prcomp(cbind(x, y / sqrt(ratio)))$rotation[, 1]
  slope <- sqrt(ratio) * axis[[2]] / axis[[1]]
  c(slope, mean(y) - slope * mean(x))
}

jackknife <- function(x, y, ratio) {
  n <- length(x)
  all <- deming(x, y, ratio)
  pseudo <- t(sapply(seq_len(n), function(i) n * all - (n - 1) * deming(x[-i], y[-i], ratio)))
  reach <- qt(.975, n - 2) * apply(pseudo, 2, sd) / sqrt(n)
  list(slope = c(all[1], all[1] - reach[1], all[1] + reach[1]),
       intercept = c(all[2], all[2] - reach[2], all[2] + reach[2]))
}

ccc <- function(x, y) {  # Lin (1989); standard error of z as in Lin (2000), written from r and the bias correction
  n <- length(x); r <- cor(x, y)
  sx <- sqrt(mean((x - mean(x))^2)); sy <- sqrt(mean((y - mean(y))^2))
  v <- sx / sy; u <- (mean(x) - mean(y)) / sqrt(sx * sy)
  p <- r / ((v + 1 / v + u^2) / 2)
  se <- sqrt(((1 - r^2) * p^2 * (1 - p^2) / r^2 + 2 * p^3 * (1 - p) * u^2 / r - p^4 * u^4 / (2 * r^2)) / (n - 2))
  c(p, tanh(atanh(p) + c(-1, 1) * qnorm(.975) * se / (1 - p^2)))
}

ranks <- function(x, y) {
  n <- length(x)
  rho <- unname(suppressWarnings(cor.test(x, y, method = "spearman"))$estimate)
  tau <- unname(suppressWarnings(cor.test(x, y, method = "kendall"))$estimate)
  z <- qnorm(.975)
  list(spearman = c(rho, tanh(atanh(rho) + c(-1, 1) * z * sqrt((1 + rho^2 / 2) / (n - 3)))),
       kendall = c(tau, tanh(atanh(tau) + c(-1, 1) * z * sqrt(.437 / (n - 4)))))
}

agreement <- function(x, y, cluster) {
  fit <- lm(y - x ~ 1, data = data.frame(x, y))
  test <- coef_test(fit, vcovCR(fit, cluster = cluster, type = "CR2"), test = "Satterthwaite")
  df <- if (is.null(test$df_Satt)) test$df else test$df_Satt
  se <- test$SE
  c(list(x = x, y = y, cluster = cluster, bias = c(mean(y - x), mean(y - x) + c(-1, 1) * qt(.975, df) * se), df = df,
         sd = sd(y - x), ccc = ccc(x, y), deming = lapply(c("1" = 1, "0.25" = .25, "3" = 3), function(l) jackknife(x, y, l))),
    ranks(x, y))
}

tost <- function(n, sd, margin, delta = 0, alpha = .05) {  # P(both one-sided t tests reject), by integration over s
  df <- n - 1; se <- sd / sqrt(n); crit <- qt(1 - alpha, df)
  f <- function(q) {  # q: s / sigma
    reach <- margin - crit * q * se
    inside <- ifelse(reach > 0, pnorm((reach - delta) / se) - pnorm((-reach - delta) / se), 0)
    inside * 2 * df * q * dchisq(df * q^2, df)
  }
  integrate(f, 0, margin / (crit * se), rel.tol = 1e-10)$value
}

grid <- expand.grid(n = c(3, 5, 10, 20), sd = c(3, 5, 8), delta = c(3, 5, 10))
power <- apply(grid, 1, function(g)
  power.t.test(n = g[["n"]], delta = g[["delta"]], sd = g[["sd"]], type = "paired", strict = TRUE)$power)
equivalence <- expand.grid(n = c(4, 5, 10, 15), sd = c(3, 5), margin = 5, delta = c(0, 2))
equivalence$power <- apply(equivalence, 1, function(g) tost(g[["n"]], g[["sd"]], g[["margin"]], g[["delta"]]))

write_json(list(
  r = R.version.string, clubSandwich = as.character(packageVersion("clubSandwich")),
  pefr = agreement(wright, mini, as.character(seq_along(wright))),
  claims = agreement(reported, measured, paper),
  power = cbind(grid, power), tost = equivalence
), "reference_agreement.json", digits = NA, auto_unbox = TRUE)
