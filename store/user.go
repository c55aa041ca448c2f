package store

import (
	"context"
	"errors"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

const (
	userColumns = `name, role, password_hash, disabled, created_at, changed_at, last_login_at, second_factor, second_factor_step`
	selectUser  = `SELECT ` + userColumns + ` FROM users`
)

func scanUser(row scanner) (*enroll.User, error) {
	u := &enroll.User{}
	if err := row.Scan(userFields(u)...); err != nil {
		return nil, err
	}
	u.HasSecondFactor = u.SecondFactor != ""
	return u, nil
}

// userFields are where userColumns go.
func userFields(u *enroll.User) []any {
	return []any{&u.Name, &u.Role, &u.PasswordHash, asBool{&u.Disabled}, atTime{&u.CreatedAt}, atTime{&u.ChangedAt}, atSome{&u.LastLoginAt},
		&u.SecondFactor, &u.SecondFactorStep}
}

// CreateUser implements enroll.UserStore.
func (s *Store) CreateUser(ctx context.Context, u enroll.User, c enroll.Change) error {
	return s.change(ctx, "create user", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `INSERT INTO users (name, role, password_hash, disabled, created_at, changed_at, last_login_at)
			VALUES ($1, $2, $3, $4, $5, $6, 0) ON CONFLICT (name) DO NOTHING`,
			u.Name, u.Role, u.PasswordHash, bit(u.Disabled), micros(u.CreatedAt), micros(u.ChangedAt))
		if err == nil && n == 0 {
			return conflict("name", "choose another name, or reset the password of this user", "user %q exists", u.Name)
		}
		return err
	})
}

// User implements enroll.UserStore.
func (s *Store) User(ctx context.Context, name string) (*enroll.User, error) {
	u, err := one(ctx, s.db, scanUser, selectUser+` WHERE name = $1`, name)
	switch {
	case errors.Is(err, errNoRows):
		return nil, notFound("name", "user", name)
	case err != nil:
		return nil, s.explain("read user", err)
	}
	return u, nil
}

// Users implements enroll.UserStore.
func (s *Store) Users(ctx context.Context, p enroll.Page) ([]*enroll.User, string, error) {
	l := listing[*enroll.User]{
		name: "users", query: selectUser, id: "name", scan: scanUser,
		keyOf: func(u *enroll.User) key { return key{ID: u.Name} },
	}
	all, next, err := l.page(ctx, s.db, p)
	return all, next, s.explain("list users", err)
}

// SetPassword implements enroll.UserStore.
func (s *Store) SetPassword(ctx context.Context, p enroll.NewPassword, c enroll.Change) error {
	return s.change(ctx, "set password", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `UPDATE users SET password_hash = $2, second_factor = $3, changed_at = $4
			WHERE name = $1 AND ($5 = '' OR password_hash = $5)`, p.User, p.Hash, p.SecondFactor, micros(p.At), p.Checked)
		switch {
		case err != nil:
			return err
		case n == 0 && p.Checked != "":
			return conflict("password", "sign in again", "the user changed meanwhile")
		case n == 0:
			return notFound("name", "user", p.User)
		}
		return endLogins(ctx, q, p.User, p.KeepSession)
	})
}

// SetSecondFactor implements enroll.UserStore.
func (s *Store) SetSecondFactor(ctx context.Context, f enroll.NewSecondFactor, c enroll.Change) error {
	return s.change(ctx, "set second factor", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `UPDATE users SET second_factor = $3, second_factor_step = $4, changed_at = $5 WHERE name = $1 AND password_hash = $2 AND disabled = 0`,
			f.User, f.Checked, f.Sealed, f.Step, micros(f.At))
		if err == nil && n == 0 {
			return conflict("password", "sign in again", "the user changed meanwhile")
		}
		return err
	})
}

// SetUserDisabled implements enroll.UserStore.
func (s *Store) SetUserDisabled(ctx context.Context, name string, disabled bool, at time.Time, c enroll.Change) error {
	return s.change(ctx, "disable or enable user", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `UPDATE users SET disabled = $2, changed_at = $3 WHERE name = $1 AND disabled <> $2`, name, bit(disabled), micros(at))
		switch {
		case err != nil:
			return err
		case n == 0:
			return conflict("name", "look at the user again", "user %q is so already, or does not exist", name)
		case disabled:
			return endLogins(ctx, q, name, "")
		}
		return nil
	})
}

// SetUserRole implements enroll.UserStore.
func (s *Store) SetUserRole(ctx context.Context, name string, before, role enroll.Role, at time.Time, c enroll.Change) error {
	return s.change(ctx, "change the role of a user", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `UPDATE users SET role = $3, changed_at = $4 WHERE name = $1 AND role = $2`, name, before, role, micros(at))
		if err == nil && n == 0 {
			return conflict("name", "look at the user again", "user %q has another role by now, or does not exist", name)
		}
		if err != nil {
			return err
		}
		return endLogins(ctx, q, name, "")
	})
}

// endLogins disables a user's tokens, and ends the user's sessions but one. A
// login that is under way waits for the user's row, and finds it changed.
func endLogins(ctx context.Context, q tx, name, keepSession string) error {
	if _, err := q.exec(ctx, `UPDATE api_tokens SET disabled = 1 WHERE owner = $1 AND owner <> '' AND disabled = 0`, name); err != nil {
		return err
	}
	_, err := q.exec(ctx, `DELETE FROM sessions WHERE user_name = $1 AND id <> $2`, name, keepSession)
	return err
}

// keepLogins is how long the token of a login is kept after it expired.
const keepLogins = 30 * 24 * time.Hour

// Login implements enroll.UserStore.
func (s *Store) Login(ctx context.Context, l enroll.UserLogin, c enroll.Change) error {
	return s.change(ctx, "log in", c, func(ctx context.Context, q tx) error {
		if err := refund(ctx, q, l.Charges); err != nil {
			return err
		}
		if _, err := q.exec(ctx, `DELETE FROM login_failures WHERE subject = $1`, "user:"+l.User); err != nil {
			return err
		}
		n, err := q.exec(ctx, `UPDATE users SET password_hash = $3, last_login_at = $4, second_factor_step = CASE WHEN $5 > 0 THEN $5 ELSE second_factor_step END
			WHERE name = $1 AND password_hash = $2 AND role = $6 AND disabled = 0 AND ($5 > second_factor_step OR $5 = 0 AND second_factor = '')`,
			l.User, l.Checked, l.Hash, micros(l.At), l.Step, l.Role)
		if err == nil && n == 0 {
			return conflict("name", "log in again", "the user changed meanwhile")
		}
		if err != nil {
			return err
		}
		if l.Session != nil {
			return insertSession(ctx, q, l.Session)
		}
		if _, err := q.exec(ctx, `DELETE FROM api_tokens WHERE owner = $1 AND owner <> '' AND expires_at < $2`, l.User, micros(l.At.Add(-keepLogins))); err != nil {
			return err
		}
		return insertAPIToken(ctx, q, *l.Token)
	})
}

// ChargeLogin implements enroll.UserStore.
func (s *Store) ChargeLogin(ctx context.Context, subjects []string, now time.Time, limit enroll.LoginLimit) ([]enroll.LoginCharge, error) {
	var charges []enroll.LoginCharge
	err := s.write(ctx, func(ctx context.Context, q tx) error {
		charges = nil // of a transaction that lost a race
		if err := forgetLogins(ctx, q, now); err != nil {
			return err
		}
		for _, subject := range subjects {
			charge, err := chargeLogin(ctx, q, subject, now, limit)
			if err != nil {
				return err
			}
			charges = append(charges, charge)
		}
		return nil
	})
	if err != nil {
		return nil, s.explain("count the attempt to log in", err)
	}
	return charges, nil
}

// chargeLogin counts one attempt. Its first statement locks the row.
func chargeLogin(ctx context.Context, q tx, subject string, now time.Time, limit enroll.LoginLimit) (enroll.LoginCharge, error) {
	charge := enroll.LoginCharge{Subject: subject}
	forget := micros(now.Add(limit.Forget))
	if _, err := q.exec(ctx, `INSERT INTO login_failures (subject, failures, until, forget_at) VALUES ($1, 0, 0, $2) ON CONFLICT (subject) DO NOTHING`,
		subject, forget); err != nil {
		return charge, err
	}
	failures, err := value[int64](ctx, q, `UPDATE login_failures SET failures = CASE WHEN forget_at <= $2 THEN 1 ELSE failures + 1 END, forget_at = $3
		WHERE subject = $1 AND until <= $2 RETURNING failures`, subject, micros(now), forget)
	if errors.Is(err, errNoRows) {
		return charge, loginLater(ctx, q, subject, now)
	}
	if err != nil {
		return charge, err
	}
	if wait := limit.Wait(failures); wait > 0 {
		charge.Until = now.Add(wait)
		_, err = q.exec(ctx, `UPDATE login_failures SET until = $2 WHERE subject = $1`, subject, micros(charge.Until))
	}
	return charge, err
}

// ChargeFailure implements enroll.UserStore. The row's until is when all
// failures are worked off.
func (s *Store) ChargeFailure(ctx context.Context, subject string, now time.Time, refill time.Duration) (time.Time, error) {
	var full int64
	err := s.write(ctx, func(ctx context.Context, q tx) error {
		if err := forgetLogins(ctx, q, now); err != nil {
			return err
		}
		var err error
		full, err = value[int64](ctx, q, `INSERT INTO login_failures (subject, failures, until, forget_at) VALUES ($1, 1, CAST($2 AS BIGINT) + CAST($3 AS BIGINT), CAST($2 AS BIGINT) + CAST($3 AS BIGINT))
			ON CONFLICT (subject) DO UPDATE SET failures = login_failures.failures + 1,
				until = CASE WHEN login_failures.until > $2 THEN login_failures.until + $3 ELSE excluded.until END,
				forget_at = CASE WHEN login_failures.until > $2 THEN login_failures.until + $3 ELSE excluded.until END
			RETURNING until`, subject, micros(now), refill.Microseconds())
		return err
	})
	return fromMicros(full), s.explain("count a failed authentication", err)
}

// loginLater says how long a subject has to wait.
func loginLater(ctx context.Context, q tx, subject string, now time.Time) error {
	until, err := value[int64](ctx, q, `SELECT until FROM login_failures WHERE subject = $1`, subject)
	if err != nil {
		return err
	}
	return &enroll.Later{After: fromMicros(until).Sub(now), Err: ca.Errorf(enroll.KindRateLimited, "",
		"wait as long as Retry-After says", "too many attempts to log in failed")}
}

// forgetLogins removes a few rows that say nothing any more, so that the table
// stays as small as the hour's failures.
func forgetLogins(ctx context.Context, q tx, now time.Time) error {
	_, err := q.exec(ctx, `DELETE FROM login_failures WHERE subject IN
		(SELECT subject FROM login_failures WHERE forget_at <= $1 ORDER BY forget_at LIMIT 16)`, micros(now))
	return err
}

// RefundLogin implements enroll.UserStore.
func (s *Store) RefundLogin(ctx context.Context, charges []enroll.LoginCharge) error {
	return s.explain("take back the attempt to log in", s.write(ctx, func(ctx context.Context, q tx) error {
		return refund(ctx, q, charges)
	}))
}

// refund takes an attempt back, with the wait that it set.
func refund(ctx context.Context, q tx, charges []enroll.LoginCharge) error {
	for _, c := range charges {
		if _, err := q.exec(ctx, `UPDATE login_failures SET failures = failures - 1, until = CASE WHEN until = $2 THEN 0 ELSE until END
			WHERE subject = $1 AND failures > 0`, c.Subject, micros(c.Until)); err != nil {
			return err
		}
	}
	return nil
}
