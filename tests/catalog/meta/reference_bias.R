# Freezes what metafor says of small-study effects into reference_bias.json.
# Run once, from this folder: Rscript reference_bias.R   (Debian: r-cran-metafor r-cran-metadat r-cran-clubsandwich r-cran-jsonlite)
suppressMessages({library(metafor); library(clubSandwich); library(jsonlite)})

tight <- list(threshold = 1e-11, maxiter = 10000, stepadj = 0.5)

line <- function(fit) {   # lm of effects on a predictor
  b <- coef(summary(fit)); ci <- confint(fit)
  list(slope = b[2, 1], se = b[2, 2], statistic = b[2, 3], df = fit$df.residual, p = b[2, 4], limit = b[1, 1],
       limit_low = ci[1, 1], limit_high = ci[1, 2])
}

asymmetry <- function(yi, vi) {
  yi <- as.numeric(yi)
  egger <- regtest(yi, vi, model = "lm")
  own <- line(lm(yi ~ sqrt(vi), weights = 1 / vi))
  stopifnot(abs(egger$zval - own$statistic) < 1e-9, abs(egger$pval - own$p) < 1e-9, abs(egger$est - own$limit) < 1e-9)
  mixed <- regtest(rma(yi, vi, control = tight), model = "rma", control = tight)
  list(egger = own, thompson = list(statistic = mixed$zval, p = mixed$pval, limit = mixed$est, limit_low = mixed$ci.lb,
                                    limit_high = mixed$ci.ub))
}

fills <- function(yi, vi) {
  yi <- as.numeric(yi)
  one <- function(method, test, estimator, side = NULL) {
    res <- rma(yi, vi, method = method, test = test, control = tight)
    f <- if (is.null(side)) trimfill(res, estimator = estimator, test = test, control = tight)   # else it refits with test = "z"
         else trimfill(res, estimator = estimator, side = side, test = test, control = tight)
    list(method = method, test = test, estimator = estimator, asked = if (is.null(side)) NA else side, side = f$side,
         k0 = f$k0, se_k0 = f$se.k0, p_k0 = f$p.k0, estimate = c(f$beta), se = f$se, low = f$ci.lb, high = f$ci.ub,
         tau2 = f$tau2, added = if (f$k0 > 0) sort(as.numeric(f$yi)[f$fill]) else numeric(0))
  }
  out <- list()
  for (estimator in c("L0", "R0")) {
    for (m in list(c("FE", "z"), c("DL", "z"), c("REML", "knha"))) out <- c(out, list(one(m[1], m[2], estimator)))
    for (side in c("left", "right")) out <- c(out, list(one("DL", "z", estimator, side)))
  }
  out
}

# Peters et al. (2006) weight by the events and non-events of both arms; metafor's regtest(predictor = "ninv") does not.
tables <- function(source, k1, n1, k0, n0) {
  keep <- (k1 + k0 > 0) & (k1 + k0 < n1 + n0)
  k1 <- k1[keep]; n1 <- n1[keep]; k0 <- k0[keep]; n0 <- n0[keep]
  or <- escalc("OR", ai = k1, n1i = n1, ci = k0, n2i = n0); as <- escalc("AS", ai = k1, n1i = n1, ci = k0, n2i = n0)
  events <- k1 + k0; n <- n1 + n0
  y <- as.numeric(or$yi); inverse <- 1 / n
  list(source = source, k1 = k1, n1 = n1, k0 = k0, n0 = n0,
       peters = line(lm(y ~ inverse, weights = 1 / (1 / events + 1 / (n - events)))),
       OR = asymmetry(or$yi, or$vi), AS = asymmetry(as$yi, as$vi), fills = fills(or$yi, or$vi))
}

effects_only <- function(source, yi, vi) {
  list(source = source, yi = as.numeric(yi), vi = vi, GEN = asymmetry(yi, vi), fills = fills(yi, vi))
}

clustered <- function(source, yi, vi, cluster) {
  yi <- as.numeric(yi)
  res <- rma(yi, vi, mods = sqrt(vi), control = tight)
  tested <- coef_test(res, vcov = "CR2", cluster = cluster)
  list(source = source, yi = yi, vi = vi, cluster = cluster, slope = tested$beta[2], se = tested$SE[2], df = tested$df[2],
       p = tested$p_Satt[2], limit = tested$beta[1])
}

norm <- escalc("MD", m1i = m1i, sd1i = sd1i, n1i = n1i, m2i = m2i, sd2i = sd2i, n2i = n2i, data = dat.normand1999)
mol <- escalc("ZCOR", ri = ri, ni = ni, data = dat.molloy2014)
curtis <- escalc("ROM", m1i = m1i, sd1i = sd1i, n1i = n1i, m2i = m2i, sd2i = sd2i, n2i = n2i, data = dat.curtis1998)
kon <- dat.konstantopoulos2011
reference <- list(
  versions = list(R = R.version.string, metafor = as.character(packageVersion("metafor")),
                  metadat = as.character(packageVersion("metadat")), clubSandwich = as.character(packageVersion("clubSandwich"))),
  tables = list(
    bcg = with(dat.bcg, tables("metadat dat.bcg", tpos, tpos + tneg, cpos, cpos + cneg)),
    nielweise2007 = with(dat.nielweise2007, tables("metadat dat.nielweise2007", ai, n1i, ci, n2i)),
    hine1989 = with(dat.hine1989, tables("metadat dat.hine1989", ai, n1i, ci, n2i)),
    collins1985a = with(subset(dat.collins1985a, !is.na(b.xti) & !is.na(b.xci)),
                        tables("metadat dat.collins1985a", b.xti, nti, b.xci, nci))),
  effects = list(
    hackshaw1998 = with(dat.hackshaw1998, effects_only("metadat dat.hackshaw1998", yi, vi)),
    raudenbush1985 = with(dat.raudenbush1985, effects_only("metadat dat.raudenbush1985", yi, vi)),
    normand1999 = effects_only("metadat dat.normand1999", norm$yi, c(norm$vi)),
    molloy2014 = effects_only("metadat dat.molloy2014", mol$yi, c(mol$vi)),
    curtis1998 = effects_only("metadat dat.curtis1998", curtis$yi, c(curtis$vi))),
  clustered = list(konstantopoulos2011 = clustered("metadat dat.konstantopoulos2011, clusters are districts", kon$yi, kon$vi,
                                                   as.character(kon$district))))
write(toJSON(reference, digits = NA, auto_unbox = TRUE, na = "null"), "reference_bias.json")
cat("written\n")
