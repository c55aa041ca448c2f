package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// allFree is Store.allFree in one query. Where EXISTS stood, PostgreSQL might
// read a whole table into a hash; where the arrays stood by themselves, it
// planned the query anew each time, for as many rows as they had.
func (e *postgresEngine) allFree(ctx context.Context, questions []first, now time.Time) ([]bool, error) {
	n := len(questions)
	scopes, keys, public := make([]string, n), make([][]byte, n), make([]string, n)
	devices, orders, tokens := make([]string, n), make([]string, n), make([]string, n)
	for i, f := range questions {
		scopes[i], keys[i], public[i], devices[i], orders[i], tokens[i] = f.scope, f.key, f.public, f.device, f.order, f.token
	}
	free := make([]bool, n)
	for i := range free {
		free[i] = true
	}
	taken, err := collect(ctx, e, func(row scanner) (i int64, err error) {
		err = row.Scan(&i)
		return i, err
	}, `SELECT n FROM unnest((SELECT $1::text[]), (SELECT $2::bytea[]), (SELECT $3::text[]),
			(SELECT $4::text[]), (SELECT $5::text[]), (SELECT $6::text[])) WITH ORDINALITY AS c (scope, key, public, device, work_order, token, n)
		WHERE (SELECT 1 FROM idempotency i WHERE i.scope = c.scope AND i.key_sha256 = c.key LIMIT 1) IS NOT NULL
			OR (SELECT 1 FROM keys k WHERE k.sha256 = c.public LIMIT 1) IS NOT NULL
			OR (SELECT 1 FROM devices d WHERE d.id = c.device AND d.status <> 'registered' LIMIT 1) IS NOT NULL
			OR c.work_order <> '' AND (SELECT 1 FROM work_orders o WHERE o.id = c.work_order AND o.state = 'open' AND o.issued < o.quantity LIMIT 1) IS NULL
			OR c.token <> '' AND (SELECT 1 FROM enrollment_tokens t WHERE t.id = c.token AND t.used < t.uses AND t.expires_at > $7
				AND (t.device_id = '' OR t.device_id = c.device) AND t.renews = 0 LIMIT 1) IS NULL`,
		scopes, keys, public, devices, orders, tokens, micros(now))
	for _, i := range taken {
		free[i-1] = false
	}
	return free, err
}

// certificates returns the certificates of serial numbers, nil where there is
// none. The limits keep PostgreSQL to the index, however few rows it knows of.
func (e *postgresEngine) certificates(ctx context.Context, serials []ca.SerialNumber) ([]*ca.Certificate, error) {
	found, err := collect(ctx, e, scanCertificate, `SELECT found.* FROM unnest((SELECT $1::text[])) AS c (serial),
		LATERAL (`+selectCertificate+` WHERE serial = c.serial LIMIT 1) AS found`, distinct(serials))
	if err != nil {
		return nil, err
	}
	known := make(map[ca.SerialNumber]*ca.Certificate, len(found))
	for _, c := range found {
		known[c.SerialNumber] = c
	}
	return columnOf(serials, func(serial ca.SerialNumber) *ca.Certificate { return copyOf(known[serial]) }), nil
}

// distinct returns each of some keys once.
func distinct[K cmp.Ordered](keys []K) []K { return slices.Compact(slices.Sorted(slices.Values(keys))) }

// copyOf returns what a caller may call its own.
func copyOf[T any](v *T) *T {
	if v == nil {
		return nil
	}
	own := *v
	return &own
}

// devicesToRenew returns the devices of certificates with their newest
// certificates, nil where there is none.
func (e *postgresEngine) devicesToRenew(ctx context.Context, serials []ca.SerialNumber) ([]*enroll.Device, error) {
	known, newest := map[ca.SerialNumber]*enroll.Device{}, map[ca.SerialNumber][]recorded{}
	_, err := collect(ctx, e, func(row scanner) (none struct{}, err error) {
		var asked ca.SerialNumber
		var kind ca.HolderKind
		d, c := newScannedDevice(), recorded{Certificate: &ca.Certificate{}}
		if err := row.Scan(slices.Concat([]any{&asked, &kind}, deviceTargets(d), certificateTargets(&c))...); err != nil {
			return none, err
		}
		if kind != ca.HolderDevice { // whose holder is called as a device is
			return none, nil
		}
		if known[asked] == nil {
			known[asked] = d
		}
		newest[asked] = append(newest[asked], c)
		return none, nil
	}, `SELECT c.serial, known.holder_kind, device.*, newest.* FROM unnest((SELECT $1::text[])) AS c (serial),
		LATERAL (SELECT holder_kind, holder_id FROM certificates WHERE serial = c.serial LIMIT 1) AS known,
		LATERAL (`+selectDevice+` WHERE id = known.holder_id LIMIT 1) AS device,
		LATERAL (`+selectCertificate+` WHERE holder_kind = 'device' AND holder_id = known.holder_id
			ORDER BY recorded_at DESC, serial DESC LIMIT $2) AS newest`, distinct(serials), int64(certificatesToRenew))
	if err != nil {
		return nil, err
	}
	for serial, certs := range newest { // a query without a sort promises no order
		slices.SortFunc(certs, func(a, b recorded) int {
			return cmp.Or(cmp.Compare(b.at, a.at), cmp.Compare(b.SerialNumber, a.SerialNumber))
		})
		known[serial].Certificates = columnOf(certs, func(r recorded) *ca.Certificate { return r.Certificate })
	}
	return columnOf(serials, func(serial ca.SerialNumber) *enroll.Device { return copyOf(known[serial]) }), nil
}

// errNotTogether says that of several issuances not all can be recorded by one
// statement: one is refused, or two are about the same row.
var errNotTogether = errors.New("not all of a batch can be recorded together")

// onConnection is what a connection and a transaction share.
type onConnection interface {
	pgxRunner
	Conn() *pgx.Conn
}

// recordTogether records plain first enrollments, or plain renewals, by one
// statement: one round trip, and where on is no transaction, a transaction.
// It decides nothing new: each part is what Store.apply runs for one, and unless
// every row is changed that it would change nothing is, and the answer is
// errNotTogether.
func recordTogether(ctx context.Context, on onConnection, batch []*issuance, now int64) error {
	a := togetherArgs{renewals: isRenewal(batch[0].claim)}
	a.recalled(batch)
	a.idempotency(batch)
	if a.renewals {
		a.knownKeys(batch)
		a.renewedDevices(batch)
		a.replaced(batch)
	} else {
		a.tokens(batch)
		a.publicKeys(batch)
		a.devices(batch)
		a.orders(batch)
	}
	a.certificates(batch)
	a.events(batch)
	text, values := a.statement(len(batch))
	_, err := on.Exec(ctx, text, append(makeRoom(on.Conn(), values, batch), now)...)
	if own, ok := errors.AsType[*pgconn.PgError](err); ok && (own.Code == "22012" || own.Code == "21000" || own.Code[:2] == "23") {
		return errNotTogether // too few rows, two about the same one, or a constraint of one: alone it says which
	}
	return err
}

// writtenOut is how many first enrollments are written out as VALUES at most.
// PostgreSQL takes a twentieth of a millisecond less for them than for arrays,
// and each number of rows is a statement of its own, which it has to plan.
// Renewals join what they are given to devices, and of few rows PostgreSQL may
// think that another order is as good.
const writtenOut = 8

// togetherTexts are the statements, by their form.
var togetherTexts sync.Map

// A togetherForm says which parts a statement has, a bit each, and what stands
// in them: arrays where rows is zero, else so many rows, or one in those of ones.
type togetherForm struct {
	renewals    bool
	parts, ones uint
	rows        int
}

// statement returns the statement of the parts that have something to change,
// for so many issuances, and its arguments without the last.
func (a *togetherArgs) statement(issuances int) (string, []any) {
	form := togetherForm{renewals: a.renewals, parts: a.parts}
	ones, regular := a.onesOf(issuances)
	values := a.values
	if regular && issuances <= writtenOut && !a.renewals {
		form.ones, form.rows = ones, issuances
		values = spread(values)
	}
	if text, ok := togetherTexts.Load(form); ok {
		return text.(string), values
	}
	text := form.text()
	togetherTexts.Store(form, text)
	return text, values
}

// onesOf returns which parts have one row where others have several, and
// whether all have one or as many as there are issuances.
func (a *togetherArgs) onesOf(issuances int) (ones uint, regular bool) {
	for part, rows := range a.rows {
		switch {
		case rows == issuances || a.parts&(1<<part) == 0:
		case rows == 1:
			ones |= 1 << part
		default:
			return 0, false
		}
	}
	return ones, true
}

// spread returns the elements of arrays, and numbers as they are.
func spread(values []any) []any {
	all := make([]any, 0, len(values)*writtenOut)
	for _, v := range values {
		switch v := v.(type) {
		case []string:
			all = appendAll(all, v)
		case [][]byte:
			all = appendAll(all, v)
		case []int64:
			all = appendAll(all, v)
		default:
			all = append(all, v)
		}
	}
	return all
}

func appendAll[T any](all []any, values []T) []any {
	for _, v := range values {
		all = append(all, v)
	}
	return all
}

// What stands for arguments in a part's text.
var (
	rowsMark = regexp.MustCompile(`unnest\(([^)]*)\)`)
	typeMark = regexp.MustCompile(`\[(text|bytea|bigint)\]`)
)

// text is the statement. It divides by zero unless each part has as many rows
// as it has to. The arguments are of each part its arrays, then how many rows
// that is; the last of all is the time. An array stands in a sub-select, so that
// the plan does not depend on its length and is made once.
func (f togetherForm) text() string {
	parts := enrollmentParts
	if f.renewals {
		parts = renewalParts
	}
	n := 0
	next := func() int { n++; return n }
	var changes, counts []string
	sum := ""
	for i, part := range parts {
		if f.parts&(1<<i) == 0 {
			continue
		}
		rows := f.rows
		if f.ones&(1<<i) != 0 {
			rows = 1
		}
		text := rowsMark.ReplaceAllStringFunc(part.text, func(mark string) string {
			types := columnOf(typeMark.FindAllStringSubmatch(mark, -1), func(found []string) string { return found[1] })
			return argumentRows(types, rows, next)
		})
		changes = append(changes, fmt.Sprintf("%s_rows AS (%s)", part.name, text))
		sum += fmt.Sprintf("(SELECT count(*) FROM %s_rows)", part.name)
		if part.more {
			sum += " + "
			continue
		}
		counts = append(counts, fmt.Sprintf("%s = $%d::bigint", sum, next()))
		sum = ""
	}
	text := "WITH " + strings.Join(changes, ",\n") + "\nSELECT 1 / CASE WHEN " + strings.Join(counts, " AND ") + " THEN 1 ELSE 0 END"
	return strings.ReplaceAll(text, "$now", fmt.Sprintf("$%d::bigint", next()))
}

// argumentRows writes the rows of the next arguments: of an array for each
// column, or so many rows.
func argumentRows(types []string, rows int, next func() int) string {
	if rows == 0 {
		return "unnest(" + strings.Join(columnOf(types, func(of string) string { return fmt.Sprintf("(SELECT $%d::%s[])", next(), of) }), ", ") + ")"
	}
	cells := make([][]string, rows)
	for _, of := range types {
		for r := range cells {
			cells[r] = append(cells[r], fmt.Sprintf("$%d::%s", next(), of))
		}
	}
	return "(VALUES (" + strings.Join(columnOf(cells, func(row []string) string { return strings.Join(row, ", ") }), "), (") + "))"
}

// togetherArgs are the parts that have something to change, a bit each, and
// their arguments.
type togetherArgs struct {
	renewals bool
	parts    uint
	rows     []int // of each part
	values   []any
}

// add adds the next part, which has to have so many rows.
func (a *togetherArgs) add(rows int, arrays ...any) {
	if rows > 0 {
		a.parts |= 1 << len(a.rows)
		a.values = append(append(a.values, arrays...), int64(rows))
	}
	a.rows = append(a.rows, rows)
}

// addMore adds the next part, of so many rows, which count with those of the one
// after it.
func (a *togetherArgs) addMore(rows int, arrays ...any) {
	a.parts |= 1 << len(a.rows)
	a.values = append(a.values, arrays...)
	a.rows = append(a.rows, rows)
}
