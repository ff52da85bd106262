# Freezes three-level REML and cluster-robust inference: Rscript reference_multilevel.R > reference_multilevel.json
suppressMessages({library(metafor); library(metadat); library(clubSandwich); library(jsonlite)})

robustly <- function(fit, cluster) {
  r <- as.data.frame(coef_test(fit, vcov = "CR2", cluster = cluster, test = "Satterthwaite"))
  ci <- as.data.frame(conf_int(fit, vcov = "CR2", cluster = cluster, test = "Satterthwaite"))
  list(se = r$SE, df = r$df, p = r$p_Satt, low = ci$CI_L, high = ci$CI_U)
}
three <- function(name, yi, vi, cluster, level, mods = NULL) {
  d <- data.frame(yi = yi, vi = vi, cluster = as.character(cluster), level = as.character(level))
  X <- if (is.null(mods)) matrix(1, nrow(d), 1) else cbind(1, mods)
  keep <- complete.cases(X) & !is.na(d$yi) & !is.na(d$vi); d <- d[keep, ]; X <- X[keep, , drop = FALSE]
  control <- list(optimizer = "optim", optmethod = "BFGS", reltol = 1e-16)
  fit <- rma.mv(d$yi, d$vi, mods = X, intercept = FALSE, random = ~ 1 | cluster / level, data = d, control = control)
  a <- aggregate(escalc(yi = d$yi, vi = d$vi, data = d, measure = "GEN"), cluster = d$cluster, struct = "ID", checkit = FALSE)
  pooled <- if (is.null(mods)) rma(a$yi, a$vi, method = "REML", test = "knha", control = list(threshold = 1e-10, maxiter = 1000))
  list(name = name, yi = d$yi, vi = d$vi, cluster = d$cluster, level = d$level, x = unname(X),
       sigma2 = fit$sigma2, beta = as.numeric(fit$beta), se = fit$se, log_likelihood = as.numeric(logLik(fit)),
       cr2 = robustly(fit, d$cluster),
       clusters = list(names = as.character(a$cluster), yi = as.numeric(a$yi), vi = as.numeric(a$vi)),
       pooled = if (!is.null(pooled)) list(estimate = as.numeric(pooled$beta), se = pooled$se, low = pooled$ci.lb, high = pooled$ci.ub, tau2 = pooled$tau2))
}
k <- dat.konstantopoulos2011; a <- dat.assink2016; b <- escalc(measure = "OR", ai = waward, n1i = wtotal, ci = maward, n2i = mtotal, data = dat.bornmann2007)
p <- dat.knapp2017; u <- escalc(measure = "ZCOR", ri = ri, ni = ni, data = dat.crede2010)
o <- escalc(measure = "PLO", xi = cases, ni = total, data = dat.obrien2003)
cases <- list(
  three("dat.konstantopoulos2011", k$yi, k$vi, k$district, k$school),
  three("dat.konstantopoulos2011, year", k$yi, k$vi, k$district, k$school, matrix((k$year - 1990) / 10)),
  three("dat.assink2016", a$yi, a$vi, a$study, a$esid),
  three("dat.assink2016, year and type", a$yi, a$vi, a$study, a$esid, cbind(a$year, as.numeric(a$deltype == "overt"))),
  three("dat.bornmann2007", b$yi, b$vi, b$study, b$obs),
  three("dat.knapp2017", p$yi, p$vi, p$study, p$task),
  three("dat.crede2010", u$yi, u$vi, u$studyid, u$sampleid),
  three("dat.obrien2003", o$yi, o$vi, o$study, o$grp))
versions <- list(R = as.character(getRversion()), metafor = as.character(packageVersion("metafor")),
                 metadat = as.character(packageVersion("metadat")), clubSandwich = as.character(packageVersion("clubSandwich")))
cat(toJSON(list(versions = versions, cases = cases), digits = NA, auto_unbox = TRUE, null = "null"), "\n")
