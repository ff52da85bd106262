# Freezes what metafor says about public networks: Rscript reference_network.R > reference_network.json
# Networks are fitted as multivariate contrasts against the first arm of each study, by rma.mv with a compound
# symmetric random effect of correlation 1/2: another road to the same model as the graph-theoretical one.
# The moment estimator is written out from Jackson, White & Riley (2012), eq. for the trace, with full matrices.
suppressMessages({library(metafor); library(metadat); library(jsonlite)})

arms <- function(study, treat, y, v) data.frame(study = as.character(study), treat = as.character(treat), y = y, v = v)
counts <- function(d, study, treat, r, n) data.frame(study = as.character(d[[study]]), treatment = as.character(d[[treat]]), events = d[[r]], n = d[[n]])
logits <- function(d) { # 0.5 in every arm of a study with an empty cell; studies without information dropped
  keep <- ave(d$events, d$study, FUN = sum) > 0 & ave(d$n - d$events, d$study, FUN = sum) > 0
  d <- d[keep, ]
  add <- ave(as.numeric(d$events == 0 | d$events == d$n), d$study, FUN = max) / 2
  arms(d$study, d$treatment, log((d$events + add) / (d$n - d$events + add)), 1 / (d$events + add) + 1 / (d$n - d$events + add))
}
risks <- function(d) { # estimates uncorrected; variances of a study with an empty cell from (k + 0.5)/(n + 1)
  zero <- ave(as.numeric(d$events == 0 | d$events == d$n), d$study, FUN = max)
  n <- d$n + zero; p <- (d$events + zero / 2) / n
  arms(d$study, d$treatment, d$events / d$n, p * (1 - p) / n)
}

baseline <- function(a) { # contrasts against the first arm, their covariance, and their design
  parts <- split(a, factor(a$study, levels = unique(a$study)))
  parts <- parts[sapply(parts, nrow) > 1]
  rows <- do.call(rbind, lapply(parts, function(s) data.frame(study = s$study[-1], y = s$y[-1] - s$y[1], base = s$treat[1], treat = s$treat[-1])))
  V <- bldiag(lapply(parts, function(s) diag(s$v[-1], nrow(s) - 1) + s$v[1]))
  list(rows = rows, V = V, parts = parts)
}
columns <- function(rows, names, ref) {
  X <- vapply(names, function(t) (rows$treat == t) - (rows$base == t), numeric(nrow(rows)))
  X <- matrix(X, nrow(rows), length(names), dimnames = list(NULL, names))
  X[, setdiff(names, ref), drop = FALSE]
}
jackson <- function(y, X, V, S) { # S: correlation structure of heterogeneity
  W <- solve(V); H <- X %*% solve(t(X) %*% W %*% X) %*% t(X) %*% W
  r <- y - H %*% y; q <- as.numeric(t(r) %*% W %*% r); df <- length(y) - qr(X)$rank
  max(0, (q - df) / sum(diag((diag(length(y)) - H) %*% S %*% W)))
}
half <- function(rows) outer(rows$study, rows$study, "==") * 0.5 + diag(0.5, nrow(rows))
coefs <- function(fit, names) list(estimate = setNames(as.list(as.numeric(fit$beta)), names), vcov = unname(as.matrix(vcov(fit))))

analyse <- function(a, ref) {
  b <- baseline(a); rows <- b$rows; V <- b$V
  names <- sort(unique(c(rows$treat, rows$base))); X <- columns(rows, names, ref); others <- colnames(X)
  rows$one <- seq_len(nrow(rows))
  common <- rma.mv(rows$y, V, mods = X, intercept = FALSE)
  reml <- rma.mv(rows$y, V, mods = X, intercept = FALSE, random = ~ one | study, data = rows, struct = "CS", rho = 1/2,
                 control = list(optimizer = "optim", optmethod = "BFGS", reltol = 1e-16))
  dl <- jackson(rows$y, X, V, half(rows))
  atdl <- rma.mv(rows$y, V + dl * half(rows), mods = X, intercept = FALSE)
  design <- sapply(b$parts, function(s) paste(sort(s$treat), collapse = " : "))[rows$study]
  # full design-by-treatment model: one column for each contrast of each design
  cells <- do.call(cbind, lapply(unique(design), function(d) {
    at <- design == d; n <- strsplit(d, " : ", fixed = TRUE)[[1]]
    Z <- matrix(0, nrow(rows), length(n) - 1)
    Z[at, ] <- columns(rows[at, ], n, n[1]); Z
  }))
  within <- rma.mv(rows$y, V, mods = cells, intercept = FALSE)
  tw <- if (nrow(rows) > ncol(cells)) jackson(rows$y, cells, V, half(rows)) else 0
  qw <- function(M) { r <- rma.mv(rows$y, V + tw * half(rows), mods = M, intercept = FALSE); as.numeric(r$QE) }
  # node splitting: with two-arm studies only the indirect estimate is the network without them
  T2 <- dl; splits <- list()
  for (i in seq_along(names)) for (j in seq_along(names)) if (i < j) {
    pair <- c(names[i], names[j])
    has <- sapply(b$parts, function(s) all(pair %in% s$treat))
    if (!any(has)) next
    two <- do.call(rbind, lapply(b$parts[has], function(s) data.frame(y = s$y[s$treat == pair[1]] - s$y[s$treat == pair[2]], v = s$v[s$treat == pair[1]] + s$v[s$treat == pair[2]])))
    w <- 1 / (two$v + T2)
    one <- list(treat1 = pair[1], treat2 = pair[2], k = sum(has), direct = sum(w * two$y) / sum(w), direct_se = 1 / sqrt(sum(w)))
    if (all(sapply(b$parts[has], nrow) == 2) && any(!has)) {
      left <- !(rows$study %in% names(b$parts)[has])
      Xl <- X[left, , drop = FALSE]; Vl <- (V + T2 * half(rows))[left, left, drop = FALSE]
      c0 <- setNames(rep(0, length(others)), others)
      if (pair[1] != ref) c0[pair[1]] <- 1
      if (pair[2] != ref) c0[pair[2]] <- -1
      I <- t(Xl) %*% solve(Vl) %*% Xl; e <- eigen(I, symmetric = TRUE); ok <- e$values > 1e-9 * max(e$values)
      G <- e$vectors[, ok, drop = FALSE] %*% (t(e$vectors[, ok, drop = FALSE]) / e$values[ok])
      if (sum(abs(I %*% G %*% c0 - c0)) < 1e-8) {
        one$indirect <- as.numeric(t(c0) %*% G %*% t(Xl) %*% solve(Vl) %*% rows$y[left])
        one$indirect_se <- sqrt(as.numeric(t(c0) %*% G %*% c0))
      }
    }
    splits[[length(splits) + 1]] <- one
  }
  list(ref = ref, others = others,
       common = c(coefs(common, others), list(q = as.numeric(common$QE), df = nrow(rows) - ncol(X))),
       reml = c(coefs(reml, others), list(tau2 = reml$tau2)),
       dl = c(coefs(atdl, others), list(tau2 = dl)),
       within = list(q = as.numeric(within$QE), df = nrow(rows) - qr(cells)$rank, tau2 = tw),
       between = list(q = as.numeric(common$QE - within$QE), df = qr(cells)$rank - ncol(X), q_random = qw(X) - qw(cells)),
       splits = splits)
}

smoke <- counts(dat.hasselblad1998, "study", "trt", "xi", "ni")
stroke <- counts(dat.dogliotti2014, "id", "treatment", "stroke", "total")
death <- counts(dat.gurusamy2011, "study", "treatment", "death", "n")
bleed <- counts(dat.pagliaro1992, "study", "trt", "xi", "ni")
copd <- counts(dat.dong2013, "id", "treatment", "death", "randomized")
f <- dat.franchini2012
park <- do.call(rbind, lapply(1:3, function(i) data.frame(study = f$Study, treatment = f[[paste0("Treatment", i)]], mean = f[[paste0("y", i)]], sd = f[[paste0("sd", i)]], n = f[[paste0("n", i)]])))
park <- park[!is.na(park$treatment), ]; park <- park[order(match(park$study, f$Study)), ]
s <- dat.senn2013
hba <- data.frame(study = s$study, treatment = s$treatment, mean = s$mi, sd = s$sdi, n = s$ni)
means <- function(d) arms(d$study, d$treatment, d$mean, d$sd^2 / d$n)

cases <- list(
  list(name = "dat.senn2013", sm = "MD", arms = hba, a = means(hba), ref = "placebo"),
  list(name = "dat.franchini2012", sm = "MD", arms = park, a = means(park), ref = "Placebo"),
  list(name = "dat.hasselblad1998", sm = "OR", arms = smoke, a = logits(smoke), ref = "no_contact"),
  list(name = "dat.hasselblad1998", sm = "RD", arms = smoke, a = risks(smoke), ref = "no_contact"),
  list(name = "dat.dogliotti2014", sm = "OR", arms = stroke, a = logits(stroke), ref = "VKAs"),
  list(name = "dat.pagliaro1992", sm = "OR", arms = bleed, a = logits(bleed), ref = "control"),
  list(name = "dat.gurusamy2011", sm = "RD", arms = death, a = risks(death), ref = "Control/Placebo"),
  list(name = "dat.gurusamy2011", sm = "OR", arms = death, a = logits(death), ref = "Control/Placebo"),
  list(name = "dat.dong2013", sm = "OR", arms = copd, a = logits(copd), ref = "Placebo"))

out <- list(
  versions = list(R = as.character(getRversion()), metafor = as.character(packageVersion("metafor")), metadat = as.character(packageVersion("metadat"))),
  cases = lapply(cases, function(c) list(name = c$name, sm = c$sm, arms = c$arms, result = analyse(c$a, c$ref))))
cat(toJSON(out, digits = NA, auto_unbox = TRUE, dataframe = "columns", pretty = FALSE), "\n")
