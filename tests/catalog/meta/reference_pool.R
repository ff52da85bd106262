# Freezes what metafor says about public data sets of metadat into reference_pool.json.
# Run once, from this folder: Rscript reference_pool.R   (Debian: r-cran-metafor r-cran-metadat r-cran-jsonlite)
suppressMessages({library(metafor); library(jsonlite)})

fitted <- function(...) {
  tight <- list(threshold = 1e-11, tol = 1e-13, maxiter = 10000)
  for (step in c(1, 0.5, 0.1)) {
    res <- tryCatch(rma(..., control = c(tight, stepadj = step)), error = function(e) NULL)
    if (!is.null(res)) return(res)
  }
  stop("metafor did not converge")
}

pooled <- function(yi, vi, method, test) {
  res <- fitted(yi, vi, method = method, test = test)
  out <- list(estimate = c(res$beta), se = res$se, low = res$ci.lb, high = res$ci.ub, p = res$pval, tau2 = res$tau2,
              q = res$QE, q_p = res$QEp, i2 = res$I2 / 100, h2 = res$H2, weights = unname(weights(res)) / 100)
  if (method != "FE") {
    ci <- confint(res, control = list(tol = 1e-13, tau2.max = 1e7, maxiter = 10000))$random
    out$tau2_low <- ci["tau^2", "ci.lb"]
    out$tau2_high <- ci["tau^2", "ci.ub"]
    own <- predict(res)
    out$pi_metafor <- c(own$pi.lb, own$pi.ub)
    model <- fitted(yi, vi, method = method, test = "z")  # metafor 3.8 has no HTS interval: Higgins et al. (2009) by hand
    out$pi_hts <- c(model$beta) + c(-1, 1) * qt(.975, model$k - 2) * sqrt(model$tau2 + model$se^2)
  }
  out
}

every_fit <- function(yi, vi) {
  out <- list()
  for (method in c("FE", "DL", "PM", "ML", "REML")) for (test in c("z", "knha", "adhoc"))
    if (method != "FE" || test == "z") out[[method]][[test]] <- pooled(yi, vi, method, test)
  out
}

sensitivity <- function(yi, vi) {
  tight <- list(threshold = 1e-11, maxiter = 10000)
  res <- rma(yi, vi, method = "REML", test = "knha", control = tight)
  one <- leave1out(res); add <- cumul(res)
  inf <- influence(rma(yi, vi, method = "REML", control = tight))
  list(leave_one_out = list(estimate = one$estimate, se = one$se, low = one$ci.lb, high = one$ci.ub, tau2 = one$tau2,
                            q = one$Q),
       cumulative = list(estimate = add$estimate, se = add$se, tau2 = add$tau2),
       influence = list(rstudent = inf$inf$rstudent, dffits = inf$inf$dffits, cook = inf$inf$cook.d,
                        cov_r = inf$inf$cov.r, tau2 = inf$inf$tau2.del, q = inf$inf$QE.del, hat = inf$inf$hat,
                        dfbetas = inf$dfbs$intrcpt, influential = unname(inf$is.infl)))
}

regression <- function(yi, vi, mods, method, test) {
  res <- fitted(yi, vi, mods = mods, method = method, test = test)
  ci <- if (method == "FE") NULL else confint(res, control = list(tol = 1e-13, tau2.max = 1e7, maxiter = 10000))$random
  list(method = method, test = test, estimate = c(res$beta), se = res$se, low = res$ci.lb, high = res$ci.ub,
       p = res$pval, tau2 = res$tau2, q = res$QE, qm = res$QM, qm_p = res$QMp, i2 = res$I2 / 100, h2 = res$H2,
       r2 = if (is.null(res$R2)) NA else res$R2 / 100,
       tau2_low = if (is.null(ci)) NA else ci["tau^2", "ci.lb"], tau2_high = if (is.null(ci)) NA else ci["tau^2", "ci.ub"])
}

regressions <- function(yi, vi, mods) {
  mods <- as.matrix(mods)
  grid <- list(c("FE", "z"), c("DL", "knha"), c("PM", "knha"), c("ML", "z"), c("REML", "z"), c("REML", "knha"),
               c("REML", "adhoc"))
  list(mods = mods, fits = lapply(grid, function(g) regression(yi, vi, mods, g[1], g[2])))
}

effects_only <- function(source, yi, vi, mods = NULL) {
  yi <- as.numeric(yi)
  out <- list(source = source, yi = yi, vi = vi, fits = every_fit(yi, vi), sensitivity = sensitivity(yi, vi))
  if (!is.null(mods)) out$regression <- regressions(yi, vi, mods)
  out
}

# Two arms: k1/n1 against k0/n0.
tables <- function(source, k1, n1, k0, n0) {
  out <- list(source = source, k1 = k1, n1 = n1, k0 = k0, n0 = n0, sizes = list(), mh = list())
  for (measure in c("OR", "RR", "AS")) {
    es <- escalc(measure, ai = k1, n1i = n1, ci = k0, n2i = n0, drop00 = measure != "AS")
    out$sizes[[measure]] <- list(yi = as.numeric(es$yi), vi = es$vi)
  }
  zero <- k1 == 0 | k1 == n1 | k0 == 0 | k0 == n0   # the design's rule, which metafor does not have
  p <- function(k, n) ifelse(zero, (k + .5) / (n + 1), k / n)
  m <- function(n) ifelse(zero, n + 1, n)
  out$sizes$RD <- list(yi = k1 / n1 - k0 / n0, vi = p(k1, n1) * (1 - p(k1, n1)) / m(n1) + p(k0, n0) * (1 - p(k0, n0)) / m(n0))
  for (measure in c("OR", "RR", "RD")) {
    res <- rma.mh(ai = k1, n1i = n1, ci = k0, n2i = n0, measure = measure, drop00 = measure != "RD")
    out$mh[[measure]] <- list(estimate = c(res$beta), se = res$se, low = res$ci.lb, high = res$ci.ub, q = res$QE)
  }
  res <- rma.peto(ai = k1, n1i = n1, ci = k0, n2i = n0, drop00 = TRUE)
  out$peto <- list(estimate = c(res$beta), se = res$se, low = res$ci.lb, high = res$ci.ub, q = res$QE)
  for (measure in names(out$sizes)) {
    es <- out$sizes[[measure]]; fine <- !is.na(es$yi)
    out$fits[[measure]] <- every_fit(es$yi[fine], es$vi[fine])
  }
  out
}

exact_test <- function(yi, vi, mods, method, test) {
  res <- rma(yi, vi, mods = as.matrix(mods), method = method, test = test, control = list(threshold = 1e-11, maxiter = 10000))
  per <- permutest(res, exact = TRUE, progbar = FALSE)
  list(yi = as.numeric(yi), vi = vi, mods = as.matrix(mods), method = method, test = test, p = per$pval[-1], qm_p = per$QMp)
}

intervals <- lapply(list(c(0, 200), c(1, 200), c(17, 60), c(50, 50), c(99, 100)), function(a) {
  k <- a[1]; n <- a[2]
  list(k = k, n = n, wilson = suppressWarnings(prop.test(k, n, correct = FALSE)$conf.int[1:2]),
       clopper_pearson = binom.test(k, n)$conf.int[1:2],
       jeffreys = c(if (k == 0) 0 else qbeta(.025, k + .5, n - k + .5), if (k == n) 1 else qbeta(.975, k + .5, n - k + .5)))
})

bcg <- dat.bcg
bcg_or <- escalc("OR", ai = tpos, bi = tneg, ci = cpos, di = cneg, data = bcg)
norm <- escalc("MD", m1i = m1i, sd1i = sd1i, n1i = n1i, m2i = m2i, sd2i = sd2i, n2i = n2i, data = dat.normand1999)
kon <- dat.konstantopoulos2011
mol <- escalc("ZCOR", ri = ri, ni = ni, data = dat.molloy2014)
curtis <- escalc("ROM", m1i = m1i, sd1i = sd1i, n1i = n1i, m2i = m2i, sd2i = sd2i, n2i = n2i, data = dat.curtis1998)
senn <- dat.senn2013
pair <- merge(subset(senn, treatment == "metformin"), subset(senn, treatment == "placebo"), by = "study")
sen <- escalc("MD", m1i = mi.x, sd1i = sdi.x, n1i = ni.x, m2i = mi.y, sd2i = sdi.y, n2i = ni.y, data = pair)
has <- dat.hasselblad1998
arms <- merge(subset(has, trt == "ind_counseling"), subset(has, trt == "no_contact"), by = "study")
rau <- dat.raudenbush1985
hac <- dat.hackshaw1998

reference <- list(
  versions = list(R = R.version.string, metafor = as.character(packageVersion("metafor")),
                  metadat = as.character(packageVersion("metadat"))),
  tables = list(
    bcg = with(bcg, tables("metadat dat.bcg (Colditz et al. 1994)", tpos, tpos + tneg, cpos, cpos + cneg)),
    nielweise2007 = with(dat.nielweise2007, tables("metadat dat.nielweise2007", ai, n1i, ci, n2i)),
    collins1985a = with(subset(dat.collins1985a, !is.na(b.xti) & !is.na(b.xci)),
                        tables("metadat dat.collins1985a, persistent or recurrent bleeding", b.xti, nti, b.xci, nci)),
    yusuf1985 = with(subset(dat.yusuf1985, table == "6" & !is.na(ai)), tables("metadat dat.yusuf1985, table 6", ai, n1i, ci, n2i)),
    hine1989 = with(dat.hine1989, tables("metadat dat.hine1989", ai, n1i, ci, n2i)),
    hasselblad1998 = with(arms, tables("metadat dat.hasselblad1998, individual counselling against no contact",
                                       xi.x, ni.x, xi.y, ni.y))),
  effects = list(
    bcg_or = effects_only("metadat dat.bcg, log OR on latitude and year", bcg_or$yi, c(bcg_or$vi), bcg[c("ablat", "year")]),
    normand1999 = effects_only("metadat dat.normand1999, mean difference", norm$yi, c(norm$vi)),
    konstantopoulos2011 = effects_only("metadat dat.konstantopoulos2011, on year", kon$yi, kon$vi, kon["year"]),
    molloy2014 = effects_only("metadat dat.molloy2014, Fisher z, on quality and age", mol$yi, c(mol$vi),
                              data.frame(quality = mol$quality, age = mol$meanage)),
    curtis1998 = effects_only("metadat dat.curtis1998, log ratio of means", curtis$yi, c(curtis$vi)),
    senn2013 = effects_only("metadat dat.senn2013, metformin against placebo", sen$yi, c(sen$vi)),
    raudenbush1985 = effects_only("metadat dat.raudenbush1985, on weeks and setting", rau$yi, rau$vi,
                                  data.frame(weeks = rau$weeks, group = as.numeric(rau$setting == "group"))),
    hackshaw1998 = effects_only("metadat dat.hackshaw1998, log OR, on year and design", hac$yi, hac$vi,
                                data.frame(year = hac$year, cohort = as.numeric(hac$design == "cohort")))),
  permutation = list(exact_test(bcg_or$yi[1:6], c(bcg_or$vi)[1:6], bcg[1:6, c("ablat", "year")], "REML", "knha"),
                     exact_test(bcg_or$yi[1:6], c(bcg_or$vi)[1:6], bcg[1:6, "ablat", drop = FALSE], "DL", "z"),
                     exact_test(rau$yi[3:8], rau$vi[3:8], rau[3:8, "weeks", drop = FALSE], "REML", "z")),
  proportions = intervals)
write(toJSON(reference, digits = NA, auto_unbox = TRUE, na = "null"), "reference_pool.json")
cat("written:", length(reference$tables) + length(reference$effects), "data sets\n")
